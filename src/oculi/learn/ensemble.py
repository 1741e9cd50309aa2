r"""Ensembles: several answers about one picture, averaged or put to the vote.

    p(y | x) = 1/M sum_m p_m(y | x)

The entropy of the mean is the whole uncertainty; what it has more than the members' own entropy on average is their
disagreement (mutual information), which is large where they have not learned, not where the picture is ambiguous.

Lakshminarayanan, Pritzel, Blundell: Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles, 2016,
arXiv:1612.01474.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from oculi.predictions import Classes, Depth, Embeddings, Prediction, Segmentation
from oculi.system import System, predict

How = Literal["mean", "vote"]


def predict_together(systems: Sequence[System], pictures: Any, how: How = "mean") -> list[Prediction]:
    """The answers of several systems as one answer per picture. They have to agree on their kind and its size."""
    if not systems:
        raise ValueError("systems: expected at least one, got none")
    each = [predict(system, pictures) for system in systems]
    return [combined(answers, how) for answers in zip(*each, strict=True)]


def combined(answers: Sequence[Prediction], how: How = "mean") -> Prediction:
    """One answer out of several about the same picture: distributions averaged, or the share of votes of each class."""
    first, kinds = answers[0], {type(answer) for answer in answers}
    if len(kinds) > 1:
        raise ValueError(f"answers: expected one kind, got {sorted(kind.__name__ for kind in kinds)}")
    if isinstance(first, Classes):
        return Classes(_mean([a.probabilities for a in answers], how), first.names)  # type: ignore[attr-defined]
    if isinstance(first, Segmentation):
        probabilities = _mean([_distributions(a) for a in answers], how)  # type: ignore[arg-type]
        return Segmentation(probabilities.argmax(0), probabilities, first.names)
    if how == "mean" and isinstance(first, Depth):
        return Depth(_mean([a.depth for a in answers], how))  # type: ignore[attr-defined]
    if how == "mean" and isinstance(first, Embeddings):
        return Embeddings(_mean([a.vector for a in answers], how))  # type: ignore[attr-defined]
    raise ValueError(f"answers: {type(first).__name__} have no {how}")


def _distributions(answer: Segmentation) -> Tensor:
    if answer.probabilities is None:
        raise ValueError("answers: expected segmentations with probabilities, got labels alone")
    return answer.probabilities


def _mean(values: list[Tensor], how: How) -> Tensor:
    """The mean over members, or of their one-hot choices along the first axis."""
    if len({tuple(v.shape) for v in values}) > 1:
        raise ValueError(f"answers: expected one shape, got {sorted({tuple(v.shape) for v in values})}")
    stacked = torch.stack(values)
    if how == "vote":
        stacked = F.one_hot(stacked.argmax(1), stacked.shape[1]).movedim(-1, 1).to(stacked)
    return stacked.mean(0)


def disagreement(members: Float[Tensor, "members n classes"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The entropy of the mean in nats, and the part of it on which the members disagree.

    >>> [round(float(v), 4) for v in disagreement(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))]
    [0.6931, 0.6931]
    >>> [round(float(v), 4) for v in disagreement(torch.tensor([[[0.5, 0.5]], [[0.5, 0.5]]]))]
    [0.6931, 0.0]
    """
    whole = torch.special.entr(members.mean(0)).sum(-1)
    return whole, whole - torch.special.entr(members).sum(-1).mean(0)
