r"""Promptable segmentation: every object is asked for, first by one click at its centre, then by corrective clicks.

The centre of a region is its pixel farthest from the rest (in the largest square that fits around it). The next click is
at the centre of the larger of two regions: missed, or found too much. IoUs are means over all objects of the split.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from oculi.data.datasets import Dataset, Splits, batches
from oculi.ops.boxes import mask_iou, paired_mask_iou
from oculi.predictions import Masks
from oculi.system import System, evaluating, predict
from oculi.types import Batch, Prompts

CLICKS, COUNTED = 9, (1, 3, 5, 9)
FOUND = 0.7  # IoU from which an automatic mask counts as the object's


def score(system: System, splits: Splits, split: str) -> dict[str, float]:
    """iou_1_click to iou_9_clicks (of the mask that is believed), iou_1_click_best (of the three), iou_box, what more
    clicks gain, quality_correlation (predicted and true IoU of the three), and of automatic masks automatic_recall (at
    IoU 0.7) and automatic_masks (for each object)."""
    dataset = getattr(splits, split)
    rows = [row for batch in batches(dataset, 16) for row in asked(system, batch)]
    table = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    said, true = table.pop("said").flatten(), table.pop("true").flatten()
    figures = {name: float(values.mean()) for name, values in table.items()}
    figures["clicks_gain"] = figures[f"iou_{CLICKS}_clicks"] - figures["iou_1_click"]
    figures["quality_correlation"] = float(torch.corrcoef(torch.stack([said, true]))[0, 1].nan_to_num(0.0))
    return figures | automatic(system, dataset)


def asked(system: System, batch: Batch) -> list[dict[str, Tensor]]:
    """The figures of each object of the batch, picture by picture."""
    if batch.masks is None or batch.boxes is None:
        raise ValueError("dataset: its samples have no masks or no boxes")
    network: Any = system
    rows = []
    with evaluating(system):
        maps = network.features(batch.pictures.to(system.device))
        for index, (truth, boxes) in enumerate(zip(batch.masks, batch.boxes, strict=True)):
            if len(truth):
                rows.append(_objects(network, [x[index : index + 1] for x in maps], truth.to(maps[0].device), boxes))
    return rows


def _objects(network: Any, features: list[Tensor], truth: Bool[Tensor, "n h w"], boxes: Tensor) -> dict[str, Tensor]:
    """All objects of one picture at once, one prompt each."""
    point = centre(truth)
    points, labels = point[:, None], torch.ones(len(truth), 1, dtype=torch.int64, device=truth.device)
    row: dict[str, Tensor] = {}
    fed: Tensor | None = None
    for click in range(1, CLICKS + 1):
        prompts = Prompts(points[None], labels[None], masks=fed)
        fed, _ = network.best(features, prompts)
        said = network.enlarge(fed)[0] > 0
        if click in COUNTED:
            row[f"iou_{click}_click" + "s" * (click > 1)] = paired_mask_iou(said, truth)
        if click == 1:
            row |= _three(network, features, prompts, truth)
        point, on = correction(said, truth)
        points, labels = torch.cat([points, point[:, None]], 1), torch.cat([labels, on[:, None]], 1)
    boxed, _ = network.best(features, Prompts(boxes=boxes[None].to(truth.device)))
    row["iou_box"] = paired_mask_iou(network.enlarge(boxed)[0] > 0, truth)
    return {name: values.cpu() for name, values in row.items()}


def _three(network: Any, features: list[Tensor], prompts: Prompts, truth: Tensor) -> dict[str, Tensor]:
    decoded = network.decode(features, prompts)
    masks = network.enlarge(decoded.masks[0, :, 1:]) > 0
    ious = torch.stack([paired_mask_iou(masks[:, k], truth) for k in range(masks.shape[1])], 1)
    return {"iou_1_click_best": ious.amax(1), "said": decoded.quality[0, :, 1:], "true": ious}


def automatic(system: System, dataset: Dataset) -> dict[str, float]:
    """How many of the objects are among the masks that are found without a prompt, and how many those are."""
    hits, objects, found = 0, 0, 0
    for batch in batches(dataset, 16):
        for answer, truth in zip(predict(system, Batch(image=batch.image)), batch.masks or [], strict=True):
            assert isinstance(answer, Masks)
            objects, found = objects + len(truth), found + len(answer.masks)
            if len(truth) and len(answer.masks):
                hits += int((mask_iou(truth, answer.masks.cpu()).amax(1) >= FOUND).sum())
    return {"automatic_recall": hits / max(1, objects), "automatic_masks": found / max(1, objects)}


def depth(region: Bool[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """How many times a pixel survives when the region loses its outermost pixels (8 neighbours); 0 outside."""
    left, steps = region.float(), torch.zeros_like(region, dtype=torch.float32)
    while bool(left.any()):
        steps = steps + left
        left = 1 - F.max_pool2d(F.pad(1 - left, (1, 1, 1, 1), value=1.0), 3, 1)
    return steps


def centre(region: Bool[Tensor, "n h w"]) -> Float[Tensor, "n 2"]:
    """x, y of the deepest pixel of each region; among equals the one nearest to their mean."""
    deep = depth(region)
    best = (deep == deep.amax((1, 2), keepdim=True)).float()
    y, x = (torch.arange(n, device=region.device) + 0.5 for n in region.shape[1:])
    count = best.sum((1, 2))
    mean_y, mean_x = (best.sum(2) @ y) / count, (best.sum(1) @ x) / count
    away = (y[None, :, None] - mean_y[:, None, None]) ** 2 + (x[None, None] - mean_x[:, None, None]) ** 2
    index = (away + 1e6 * (1 - best)).flatten(1).argmin(1)
    return torch.stack([x[index % len(x)], y[index // len(x)]], 1)


def correction(
    said: Bool[Tensor, "n h w"], truth: Bool[Tensor, "n h w"]
) -> tuple[Float[Tensor, "n 2"], Int[Tensor, " n"]]:
    """The next click and its label; where nothing is wrong, the object's centre."""
    missed, extra = truth & ~said, said & ~truth
    more = depth(extra).amax((1, 2)) > depth(missed).amax((1, 2))
    right = ~(missed | extra).flatten(1).any(1)
    region = torch.where(more[:, None, None], extra, torch.where(right[:, None, None], truth, missed))
    return centre(region), (~more).long()
