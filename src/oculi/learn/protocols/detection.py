r"""Detection: COCO's mean average precision on the pictures as the network sees them, and what to slice it by.

Small pictures need ranges of their own: an object's side, sqrt(width height), is small below 3/16 of the picture's side,
large from 1/4 on (12 and 16 of 64 pixels); a third of the World's objects lies in each range.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from oculi.data.datasets import Dataset, Splits, batches
from oculi.metrics.detection import Objects, coco, found_objects
from oculi.metrics.instances import PERSON_SIGMAS
from oculi.predictions import Detections
from oculi.system import System, predict

SIDES = {"small": (0.0, 3 / 16), "medium": (3 / 16, 1 / 4), "large": (1 / 4, math.inf)}


def score(system: System, splits: Splits, split: str) -> dict[str, float]:
    """map (IoU 0.50 to 0.95), map50, map75, map_small, map_medium, map_large, recall (100 a picture), ap_<class>.

    Where both the answers and the data have masks, mask_map, mask_map50 and mask_map75 too; where both have keypoints,
    oks_map, oks_map50 and oks_map75. What is undefined, such as the AP of a class without objects, is left out.
    """
    found, truths = answers(system, getattr(splits, split))
    names = splits.class_names
    side = math.sqrt(system.contract.height * system.contract.width)
    areas = {name: ((low * side) ** 2, (high * side) ** 2) for name, (low, high) in SIDES.items()}
    boxes = coco(found, truths, len(names) if names else 0, areas)
    scores = {
        "map": boxes.average_precision(),
        "map50": boxes.average_precision(0.5),
        "map75": boxes.average_precision(0.75),
        **{f"map_{name}": boxes.average_precision(area=name) for name in SIDES},
        "recall": boxes.average_recall(),
        **{f"ap_{names[k] if names else k}": value for k, value in enumerate(boxes.per_class().tolist())},
    }
    for kind, prefix in (("masks", "mask"), ("keypoints", "oks")):
        if all(getattr(one, kind) is not None for one in (*found, *truths)):
            sigmas = _sigmas(truths) if kind == "keypoints" else None
            more = coco(found, truths, len(names) if names else 0, areas, by=kind, sigmas=sigmas)
            scores |= {f"{prefix}_map": more.average_precision(), f"{prefix}_map50": more.average_precision(0.5)}
            scores[f"{prefix}_map75"] = more.average_precision(0.75)
    return {name: value for name, value in scores.items() if not math.isnan(value)}


def answers(system: System, dataset: Dataset) -> tuple[list[Detections], list[Objects]]:
    """What the system says about each picture and what is there, crowd regions marked where the data has them."""
    found: list[Detections] = []
    truths: list[Objects] = []
    for batch in batches(dataset, 32):
        if batch.boxes is None or batch.labels is None:
            raise ValueError("dataset: its samples have no boxes or no labels")
        found += [cast(Detections, answer.cpu()) for answer in predict(system, batch)]
        none = [None] * len(batch.boxes)
        rest = zip(batch.crowd or none, batch.masks or none, batch.keypoints or none, strict=True)
        truths += [
            Objects(boxes, labels, crowd, masks=masks, keypoints=keypoints)
            for boxes, labels, (crowd, masks, keypoints) in zip(batch.boxes, batch.labels, rest, strict=True)
        ]
    return found, truths


def _sigmas(truths: list[Objects]) -> list[float]:
    """COCO's constants for 17 keypoints, their mean for any other number."""
    points = {one.keypoints.shape[1] for one in truths if one.keypoints is not None} or {len(PERSON_SIGMAS)}
    if points == {len(PERSON_SIGMAS)}:
        return list(PERSON_SIGMAS)
    return [sum(PERSON_SIGMAS) / len(PERSON_SIGMAS)] * max(points)


def objects(
    found: list[Detections], truths: list[Objects], threshold: float = 0.5, least: float = 0.3
) -> dict[str, Tensor]:
    """For slices, one element per object of all pictures, crowd regions left out: `right` (found with a score of at
    least `least`), its `label`, its `side` in pixels, and the number of its `picture`."""
    right = torch.cat(found_objects(found, truths, threshold, least))
    boxes, label = torch.cat([t.boxes for t in truths]), torch.cat([t.labels for t in truths])
    picture = torch.cat([torch.full((len(t.labels),), i) for i, t in enumerate(truths)])
    single = ~torch.cat([torch.zeros(len(t.labels)).bool() if t.crowd is None else t.crowd for t in truths])
    side = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    table = {"right": right, "label": label, "side": side, "picture": picture}
    return {name: column[single] for name, column in table.items()}
