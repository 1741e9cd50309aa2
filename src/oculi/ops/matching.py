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

ROWS = 1024  # of the first whose distances are held at a time
EXACT = 1 << 16  # distances up to which doubles cost nothing that matters


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
    index, rival, back = _nearest(first.detach(), second.detach(), ratio < 1)
    # the few distances that count are taken anew, without the rounding of the products
    nearest = torch.linalg.vector_norm(first - second[index], dim=1)
    keep = nearest <= max_distance
    if ratio < 1 and m > 1:
        keep = keep & (nearest < ratio * torch.linalg.vector_norm(first - second[rival], dim=1))
    if mutual:
        keep = keep & (back[index] == torch.arange(n, device=first.device))
    rows = keep.nonzero()[:, 0]
    return torch.stack([rows, index[rows]], 1), nearest[rows]


def _nearest(
    first: Float[Tensor, "n dimensions"], second: Float[Tensor, "m dimensions"], rivals: bool
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " m"]]:
    """Each one's nearest in the second, its second nearest (or the nearest again), and the second's nearest in the first.

    max_j of a.b - |a|^2 / 2 - |b|^2 / 2 = -d^2 / 2 a thousand rows at a time, so that the products stay in the cache.
    The second's nearest is right wherever it is anyone's nearest, which is all that being mutual asks.
    """
    n, m = len(first), len(second)
    wide = torch.float64 if n * m < EXACT else first.dtype
    centre = second.to(wide).mean(0)
    a, b = first.to(wide) - centre, second.to(wide) - centre
    half_a, half_b = a.square().sum(1, keepdim=True) / 2, b.square().sum(1) / 2
    best, index, rival = a.new_empty(n), *first.new_empty(2, n, dtype=torch.int64)
    highest = a.new_full((m,), -math.inf)
    for start in range(0, n, ROWS):
        here = slice(start, start + ROWS)
        closeness = torch.addmm(half_b, a[here], b.T, beta=-1).sub_(half_a[here])
        torch.max(closeness, 1, out=(best[here], index[here]))
        highest = torch.maximum(highest, closeness.amax(0))
        rival[here] = index[here]
        if rivals and m > 1:
            rival[here] = closeness.scatter_(1, index[here, None], -math.inf).argmax(1)
    mutual = (best == highest[index]).nonzero()[:, 0]
    back = torch.full((m,), n, device=first.device).scatter_reduce_(0, index[mutual], mutual, "amin")
    return index, rival, back
