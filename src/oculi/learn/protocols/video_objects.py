r"""Video object segmentation: each object gets one click at its centre in the first frame and is followed to the last.

J is the mean over objects and the later frames of the IoU with the truth; where the object is hidden, an empty mask has
IoU 1 and any other 0 (as in DAVIS: Perazzi et al. 2016, CVPR).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from oculi.data.datasets import Splits, batches
from oculi.learn.protocols.promptable import centre
from oculi.ops.boxes import paired_mask_iou
from oculi.system import System, evaluating
from oculi.types import Prompts


def score(system: System, splits: Splits, split: str) -> dict[str, float]:
    """j; j_last of the last frame alone; j_hidden and j_seen of frames in which the object is hidden or not;
    occlusion_accuracy (is it to be seen?), hidden_share (what always saying yes would lose); iou_first of the prompted
    frame; j_without_memory and memory_gain, their difference."""
    if not hasattr(system, "track"):
        raise ValueError(f"protocol: {type(system).__name__} has no `track` to follow objects through videos")
    rows = [row for batch in batches(getattr(splits, split), 4) for row in _followed(system, batch)]
    table = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    iou, hidden = table["iou"], table["hidden"]
    j, without = float(iou[:, 1:].mean()), float(table["without"][:, 1:].mean())
    figures = {
        "j": j,
        "j_last": float(iou[:, -1].mean()),
        "j_seen": float(iou[:, 1:][~hidden[:, 1:]].mean()),
        "occlusion_accuracy": float((table["visible"] != hidden)[:, 1:].float().mean()),
        "hidden_share": float(hidden[:, 1:].float().mean()),
        "iou_first": float(iou[:, 0].mean()),
        "j_without_memory": without,
        "memory_gain": j - without,
    }
    if bool(hidden[:, 1:].any()):
        figures["j_hidden"] = float(iou[:, 1:][hidden[:, 1:]].mean())
    return figures


def _followed(system: Any, batch: Any) -> list[dict[str, Tensor]]:
    if batch.video is None or batch.video_masks is None:
        raise ValueError("dataset: its samples have no video or no masks through it")
    rows = []
    with evaluating(system):
        for video, truth in zip(batch.video.to(system.device), batch.video_masks, strict=True):
            if not len(truth):
                continue
            truth = truth.to(video.device)
            point = centre(truth[:, 0])[None, :, None]
            prompts = Prompts(point, torch.ones(point.shape[:-1], dtype=torch.int64, device=point.device))
            told, blind = (system.track(video[None], prompts, remember) for remember in (True, False))
            row = {"iou": _ious(system, told.masks[0], truth), "without": _ious(system, blind.masks[0], truth)}
            row |= {"visible": told.visible[0] > 0, "hidden": ~truth.flatten(2).any(2)}
            rows.append({name: values.cpu() for name, values in row.items()})
    return rows


def _ious(system: Any, masks: Tensor, truth: Tensor) -> Tensor:
    """n x f overlaps; 1 where both are empty."""
    said = (system.enlarge(masks) > 0).flatten(0, 1)
    truth = truth.flatten(0, 1)
    both_empty = ~(said | truth).flatten(1).any(1)
    return torch.where(both_empty, 1.0, paired_mask_iou(said, truth)).unflatten(0, masks.shape[:2])
