r"""Correspondence by descriptor distance: mutual nearest neighbours that pass the ratio test.

    d(i, j) = ||a_i - b_j||_2
    j is i's match when  j = argmin_j d(i, j),  i = argmin_i d(i, j),  and  d(i, j) < ratio * d(i, second nearest)

Mutuality drops one-sided matches, the ratio test (Lowe 2004, section 7.1) those with a rival almost as near.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def match_descriptors(
    first: Float[Tensor, "n dimensions"],
    second: Float[Tensor, "m dimensions"],
    ratio: float = 1.0,
    mutual: bool = True,
    max_distance: float = math.inf,
) -> tuple[Int[Tensor, "matches 2"], Float[Tensor, " matches"]]:
    """Pairs (index in first, index in second), in order of the first, and their Euclidean distances.

    ratio: 1 switches the ratio test off; Lowe's value is 0.8. A single candidate has no rival to fear.
    Raises ValueError for descriptors that are not n x d of one d, or a ratio outside (0, 1].
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"first, second: expected n x d and m x d, got {tuple(first.shape)} and {tuple(second.shape)}")
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio: expected a number in (0, 1], got {ratio}")
    n, m = len(first), len(second)
    if n == 0 or m == 0:
        return torch.zeros(0, 2, dtype=torch.int64, device=first.device), first.new_zeros(0)
    distances = torch.cdist(
        first, second, compute_mode="donot_use_mm_for_euclid_dist" if n * m < 4096 else "use_mm_for_euclid_dist"
    )
    nearest, index = distances.topk(min(2, m), dim=1, largest=False)
    keep = nearest[:, 0] <= max_distance
    if ratio < 1 and m > 1:
        keep &= nearest[:, 0] < ratio * nearest[:, 1]
    if mutual:
        back = distances.argmin(0)
        keep &= back[index[:, 0]] == torch.arange(n, device=first.device)
    rows = keep.nonzero()[:, 0]
    return torch.stack([rows, index[rows, 0]], 1), nearest[rows, 0]
