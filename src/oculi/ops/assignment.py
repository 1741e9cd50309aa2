r"""Bipartite matching: each true object gets one prediction of its own, so that the sum of the costs is the least.

    sigma = argmin over one-to-one assignments of  sum_j C[sigma(j), j]

Kuhn's Hungarian method solves it exactly; here scipy's `linear_sum_assignment` does (a shortest augmenting path method
with the same answer), once per picture. Nothing flows back: the matching only says who learns what. Costs that are no
numbers count as very large, so that a diverged prediction is matched last and raises no error.

Kuhn: The Hungarian method for the assignment problem, 1955. Crouse: On implementing 2D rectangular assignment
algorithms, 2016. Carion et al.: End-to-End Object Detection with Transformers, 2020, arXiv:2005.12872.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LARGE = 1e9


class Matching(NamedTuple):
    """Pairs: prediction `query` of picture `picture` stands for the picture's object `truth`."""

    picture: Int[Tensor, " pairs"]
    query: Int[Tensor, " pairs"]
    truth: Int[Tensor, " pairs"]


def assign(cost: Float[Tensor, "b queries truths"], real: Bool[Tensor, "b truths"]) -> Matching:
    """The assignment of least total cost for each picture, among its `real` objects; the others are padding.

    Where there are more objects than queries, the cheapest of them are matched. Needs scipy.

    >>> cost = torch.tensor([[[4.0, 1, 3], [2, 0, 5], [3, 2, 2]]])
    >>> assign(cost, torch.ones(1, 3, dtype=torch.bool)).truth
    tensor([1, 0, 2])
    """
    if cost.ndim != 3 or real.shape != (cost.shape[0], cost.shape[2]):
        raise ValueError(
            f"cost, real: expected b x queries x truths and b x truths, got {tuple(cost.shape)} and {tuple(real.shape)}"
        )
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise ImportError("matching needs scipy: pip install oculi[science]") from None
    costs = cost.detach().double().nan_to_num(LARGE, LARGE, LARGE).clamp(-LARGE, LARGE).cpu().numpy()
    which = real.cpu().numpy()
    pictures, queries, truths = [], [], []
    for index, (table, mine) in enumerate(zip(costs, which, strict=True)):
        columns = mine.nonzero()[0]
        rows, chosen = linear_sum_assignment(table[:, columns])
        pictures += [index] * len(rows)
        queries += rows.tolist()
        truths += columns[chosen].tolist()
    return Matching(*(torch.tensor(v, dtype=torch.int64, device=cost.device) for v in (pictures, queries, truths)))
