"""Semantic segmentation: mean IoU, pixel accuracy, boundary IoU and each class's IoU over all pixels of the split."""

from __future__ import annotations

import math

import torch

from oculi.data.datasets import Splits, batches
from oculi.metrics.boundary_iou import boundary_counts
from oculi.metrics.segmentation import intersection_over_union, mean_iou, pixel_accuracy, pixel_confusion
from oculi.system import System, predict
from oculi.types import IGNORE


def score(system: System, splits: Splits, split: str) -> dict[str, float]:
    """miou, pixel_accuracy, boundary_iou (within 2 % of the diagonal of each class's contour, mean over classes) and
    iou_<class>; pixels of class 255 are left out."""
    pairs = []
    for batch in batches(getattr(splits, split), 16):
        if batch.semantic is None:
            raise ValueError("dataset: its samples have no semantic map")
        said = torch.stack([answer.semantic.cpu() for answer in predict(system, batch)])  # type: ignore[attr-defined]
        pairs.append((said, batch.semantic))
    names = splits.class_names
    classes = len(names) if names else 1 + max(int(m[m != IGNORE].max()) for pair in pairs for m in pair)
    counts = torch.stack([pixel_confusion(said, truth, classes) for said, truth in pairs]).sum(0)
    each = intersection_over_union(counts).tolist()
    named = {f"iou_{names[i] if names else i}": value for i, value in enumerate(each) if not math.isnan(value)}
    shared, either = torch.stack([boundary_counts(said, truth, classes) for said, truth in pairs]).sum(0)
    borders = float((shared.double() / either).nanmean())
    return {"miou": mean_iou(counts), "pixel_accuracy": pixel_accuracy(counts), "boundary_iou": borders, **named}
