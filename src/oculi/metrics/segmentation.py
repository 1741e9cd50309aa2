r"""Scores of segmentations, all from one table of pixel counts.

IoU_c = n_cc / (Σ_j n_cj + Σ_j n_jc - n_cc)        n_ij: pixels of class i called j; 255 in the truth is left out
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oculi.types import IGNORE


def pixel_confusion(
    predicted: Int[Tensor, "*said"], truth: Int[Tensor, "*true"], classes: int
) -> Int[Tensor, "true said"]:
    """Counts of pixels: row = true class, column = predicted class. Counts of batches may be added."""
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted: expected the shape of truth {tuple(truth.shape)}, got {tuple(predicted.shape)}")
    known = truth != IGNORE
    predicted, truth = predicted[known].long(), truth[known].long()
    for name, value in (("predicted", predicted), ("truth", truth)):
        if value.numel() and (int(value.min()) < 0 or int(value.max()) >= classes):
            raise ValueError(f"{name}: expected classes 0..{classes - 1}, got {int(value.min())}..{int(value.max())}")
    return torch.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)


def intersection_over_union(counts: Int[Tensor, "true said"]) -> Float[Tensor, " classes"]:
    """IoU of each class; NaN for one that is neither there nor predicted.

    >>> intersection_over_union(torch.tensor([[3, 1], [0, 4]]))
    tensor([0.7500, 0.8000], dtype=torch.float64)
    """
    counts = counts.double()
    hit = counts.diagonal()
    return hit / (counts.sum(0) + counts.sum(1) - hit)


def mean_iou(counts: Int[Tensor, "true said"]) -> float:
    """Mean IoU over the classes that occur in the truth or the prediction; NaN if there is no known pixel.

    >>> round(mean_iou(torch.tensor([[3, 1], [0, 4]])), 4)
    0.775
    """
    return float(intersection_over_union(counts).nanmean())


def pixel_accuracy(counts: Int[Tensor, "true said"]) -> float:
    """Fraction of known pixels that are right.

    >>> pixel_accuracy(torch.tensor([[3, 1], [0, 4]]))
    0.875
    """
    return float(counts.diagonal().sum().double() / counts.sum())
