r"""Boundary IoU: the overlap of two masks' inner borders, which stays sharp where large objects hide a poor contour.

    B_d(M) = pixels of M at most d from a pixel outside M (in the maximum norm; the picture's border counts as outside)
    boundary IoU = |B_d(A) ∩ B_d(B)| / |B_d(A) ∪ B_d(B)|                 d: 2 % of the picture's diagonal

When d covers both masks it is their IoU.

Cheng et al.: Boundary IoU, 2021, arXiv:2103.16562.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from oculi.types import IGNORE


def usual_distance(height: int, width: int) -> int:
    """2 % of the diagonal in whole pixels, at least 1.

    >>> usual_distance(480, 640)
    16
    """
    return max(1, round(0.02 * math.hypot(height, width)))


def boundary(mask: Bool[Tensor, "*b height width"], distance: int) -> Bool[Tensor, "*b height width"]:
    """The pixels of each mask that are at most `distance` from a pixel outside it.

    >>> int(boundary(torch.ones(5, 5, dtype=torch.bool), 1).sum())
    16
    """
    if distance < 1:
        raise ValueError(f"distance: expected at least 1 pixel, got {distance}")
    height, width = mask.shape[-2:]
    reach = min(distance, max(height, width))
    outside = F.pad((~mask).reshape(-1, 1, height, width).float(), (reach,) * 4, value=1.0)
    near = F.max_pool2d(F.max_pool2d(outside, (1, 2 * reach + 1), 1), (2 * reach + 1, 1), 1)
    return mask & (near > 0).reshape(mask.shape)


def boundary_iou(
    a: Bool[Tensor, "*b height width"], b: Bool[Tensor, "*b height width"], distance: int = 0
) -> Float[Tensor, "*b"]:
    """Boundary IoU of masks pair by pair, 1 where both are empty; `distance` in pixels, 0: 2 % of the diagonal."""
    if a.shape != b.shape:
        raise ValueError(f"b: expected the shape of a {tuple(a.shape)}, got {tuple(b.shape)}")
    distance = distance or usual_distance(*a.shape[-2:])
    one, two = boundary(a, distance), boundary(b, distance)
    shared, joined = (one & two).flatten(-2).sum(-1), (one | two).flatten(-2).sum(-1)
    return torch.where(joined > 0, shared.double() / joined.clamp_min(1), 1.0)


def boundary_counts(
    predicted: Int[Tensor, "b height width"], truth: Int[Tensor, "b height width"], classes: int, distance: int = 0
) -> Int[Tensor, "2 classes"]:
    """Pixels that the boundaries of each class share, and that either has, pixels of class 255 left out.

    Counts of batches may be added; shared / either is the class's boundary IoU.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted: expected the shape of truth {tuple(truth.shape)}, got {tuple(predicted.shape)}")
    distance = distance or usual_distance(*truth.shape[-2:])
    known, counts = truth != IGNORE, []
    for k in range(classes):
        one, two = (boundary(x == k, distance) & known for x in (predicted, truth))
        counts.append(torch.stack([(one & two).sum(), (one | two).sum()]))
    return torch.stack(counts, 1)
