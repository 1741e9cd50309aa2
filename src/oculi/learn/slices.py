r"""Slices: scores on named subsets beside the aggregate, those significantly worse flagged.

A slice is worse when its share of right answers is below the rest's by more than chance explains: Fisher's exact test,
one-sided, with Bonferroni's correction over the slices. Of N answers K are right; a slice of n answers holds at most k
right ones with probability

    p = sum over j <= k of C(K, j) C(N - K, n - j) / C(N, n)

A normal approximation would flag small slices of a good system too often.

Accuracy, precision and recall are such shares: of all samples, of those said to be positive, of those that are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
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
        p_value = _at_most(int(right[inside].sum()), n, int(right.sum()), n + m)
        found.append(Slice(name, n, score, rest, p_value, p_value < level / len(tested)))
    return sorted(found, key=lambda s: s.score)


def _at_most(k: int, n: int, successes: int, total: int) -> float:
    """The chance that n of `total` answers, drawn without replacement, hold at most k of the `successes`."""
    j = torch.arange(max(0, n - (total - successes)), k + 1, dtype=torch.float64)
    log = _choose(successes, j) + _choose(total - successes, n - j) - _choose(total, torch.tensor(float(n)).double())
    return min(1.0, float(log.exp().sum()))


def _choose(n: int, k: Tensor) -> Tensor:
    """Logarithm of the binomial coefficient."""
    return math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def sliced_metrics(
    predicted: Int[Tensor, " n"],
    label: Int[Tensor, " n"],
    members: dict[str, Bool[Tensor, " n"]],
    positive: int = 1,
    level: float = 0.05,
    least: int = 10,
) -> dict[str, tuple[float, list[Slice]]]:
    """Accuracy, precision and recall: the aggregate and every slice, worst first. `level` holds for each of the three."""
    if predicted.shape != label.shape or len(label) == 0:
        raise ValueError(
            f"predicted: expected one answer for each label, got {tuple(predicted.shape)}, {tuple(label.shape)}"
        )
    right = predicted == label
    asked = {"accuracy": right | ~right, "precision": predicted == positive, "recall": label == positive}
    found = {}
    for name, among in asked.items():
        inside = {key: member[among] for key, member in members.items()}
        aggregate = float(right[among].double().mean()) if bool(among.any()) else math.nan
        found[name] = aggregate, slice_scores(right[among], inside, level, least)
    return found
