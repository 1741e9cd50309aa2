r"""Slices: scores on named subsets beside the aggregate, those significantly worse flagged.

A slice is worse when its share of right answers is below the rest's by more than chance explains: a one-sided two-sample
z-test on proportions with Bonferroni's correction over the slices, z = (p - q) / sqrt(r (1 - r) (1/n + 1/m)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor


@dataclass(frozen=True)
class Slice:
    """One subset: its size, the share of right answers in it and outside it, and whether it is significantly worse."""

    name: str
    count: int
    score: float
    rest: float
    p_value: float
    worse: bool


def slice_scores(
    right: Bool[Tensor, " n"], members: dict[str, Bool[Tensor, " n"]], level: float = 0.05, least: int = 10
) -> list[Slice]:
    """Every slice of at least `least` samples, worst first. `level` is the chance of any false flag."""
    tested = {name: inside for name, inside in members.items() if least <= int(inside.sum()) <= len(right) - least}
    found = []
    for name, inside in tested.items():
        n, m = int(inside.sum()), int((~inside).sum())
        score, rest = float(right[inside].float().mean()), float(right[~inside].float().mean())
        pooled = float(right.float().mean())
        spread = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
        p_value = 0.5 * math.erfc((rest - score) / spread / math.sqrt(2)) if spread else 1.0
        found.append(Slice(name, n, score, rest, p_value, p_value < level / len(tested)))
    return sorted(found, key=lambda s: s.score)
