r"""How well a partition agrees with labels that it has not seen.

    NMI = I(A; B) / mean(H(A), H(B))        in [0, 1], natural logarithms; 1 where both are the same up to names

Numbers of clusters need not agree, and renaming clusters changes nothing.

Strehl, Ghosh: Cluster ensembles, 2002 (with the arithmetic mean).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def normalised_mutual_information(a: Int[Tensor, " n"], b: Int[Tensor, " n"]) -> float:
    """NMI of two labelings of the same things; 1 where each has one class only.

    >>> normalised_mutual_information(torch.tensor([0, 0, 1, 1]), torch.tensor([5, 5, 2, 2]))
    1.0
    >>> normalised_mutual_information(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))
    0.0
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"a, b: expected labels of the same things, at least one, got {len(a)} and {len(b)}")
    first, second = a.unique(return_inverse=True)[1], b.unique(return_inverse=True)[1]
    rows, columns = int(first.max()) + 1, int(second.max()) + 1
    joint = torch.bincount(first * columns + second, minlength=rows * columns).view(rows, columns).double() / len(a)
    of_a, of_b = _entropy(joint.sum(1)), _entropy(joint.sum(0))
    if float(of_a + of_b) == 0:
        return 1.0
    shared = of_a + of_b - _entropy(joint)
    return round(float((2 * shared / (of_a + of_b)).clamp(0, 1)), 12)


def _entropy(p: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    return -torch.special.xlogy(p, p).sum()
