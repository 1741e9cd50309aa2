r"""Slices: scores on named subsets beside the aggregate, those significantly worse flagged.

A slice is worse when its share of right answers is below the rest's by more than chance explains: a one-sided two-sample
z-test on proportions with Bonferroni's correction over the slices, z = (p - q) / sqrt(r (1 - r) (1/n + 1/m)).

Accuracy, precision and recall are such shares: of all samples, of those said to be positive, of those that are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
        pooled = float(right.float().mean())
        spread = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
        p_value = 0.5 * math.erfc((rest - score) / spread / math.sqrt(2)) if spread else 1.0
        found.append(Slice(name, n, score, rest, p_value, p_value < level / len(tested)))
    return sorted(found, key=lambda s: s.score)


def sliced_metrics(
    predicted: Int[Tensor, " n"],
    label: Int[Tensor, " n"],
    members: dict[str, Bool[Tensor, " n"]],
    positive: int = 1,
    level: float = 0.05,
    least: int = 10,
) -> dict[str, tuple[float, list[Slice]]]:
    """Accuracy, precision and recall: the aggregate and every slice, worst first. `level` holds for all of them."""
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
        found[name] = aggregate, slice_scores(right[among], inside, level / len(asked), least)
    return found
