r"""How well keypoints of two pictures related by a known homography agree.

    repeatability    share of the keypoints seen in both pictures that have a keypoint of the other within `radius`,
                     averaged over both directions
    matching score   correct matches / keypoints seen in both pictures (the smaller of the two counts)
    corner error     mean distance in pixels between the picture's four corners under two homographies

Mikolajczyk, Schmid: A performance evaluation of local descriptors, PAMI 2005; DeTone et al., arXiv:1712.07629.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oculi.geometry.homography import apply_homography, transfer_error


def seen_in(H: Float[Tensor, "3 3"], points: Float[Tensor, "n 2"], height: int, width: int) -> Bool[Tensor, " n"]:
    """Which points H sends inside a `height` x `width` picture."""
    mapped = apply_homography(H, points)
    return ((mapped >= 0) & (mapped <= mapped.new_tensor([width, height]))).all(-1)


def repeatability(
    first: Float[Tensor, "n 2"],
    second: Float[Tensor, "m 2"],
    H: Float[Tensor, "3 3"],
    height: int,
    width: int,
    radius: float = 2.0,
) -> float:
    """In [0, 1]; 0 where no keypoint is seen in both. H maps the first picture to the second, of one size."""
    inverse = torch.linalg.inv(H)
    shared = first[seen_in(H, first, height, width)]
    back = second[seen_in(inverse, second, height, width)]
    if not len(shared) or not len(back):
        return 0.0
    distances = torch.cdist(apply_homography(H, shared), back, compute_mode="donot_use_mm_for_euclid_dist") <= radius
    return float((distances.any(1).double().mean() + distances.any(0).double().mean()) / 2)


def matching_score(
    first: Float[Tensor, "n 2"],
    second: Float[Tensor, "m 2"],
    pairs: Int[Tensor, "matches 2"],
    H: Float[Tensor, "3 3"],
    height: int,
    width: int,
    radius: float = 3.0,
) -> float:
    """Matches (index pairs) within `radius` pixels of the truth, as a share of the keypoints seen in both pictures."""
    seen = min(
        int(seen_in(H, first, height, width).sum()), int(seen_in(torch.linalg.inv(H), second, height, width).sum())
    )
    if seen == 0 or not len(pairs):
        return 0.0
    correct = transfer_error(H, first[pairs[:, 0]], second[pairs[:, 1]]) <= radius
    return min(1.0, float(correct.sum()) / seen)


def corner_error(H: Float[Tensor, "3 3"], truth: Float[Tensor, "3 3"], height: int, width: int) -> float:
    """Mean distance in pixels between the corners of a `height` x `width` picture under H and under the truth.

    >>> corner_error(torch.eye(3), torch.tensor([[1.0, 0, 3], [0, 1, 4], [0, 0, 1]]), 10, 10)
    5.0
    """
    corners = truth.new_tensor([[0, 0], [width, 0], [width, height], [0, height]])
    return float(transfer_error(H.to(truth), corners, apply_homography(truth, corners)).mean())
