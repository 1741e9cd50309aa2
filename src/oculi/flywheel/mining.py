r"""Hard-case mining: which unlabelled pictures are worth a label, by what the system itself says about them.

margin: the difference between the two most probable classes (small = hard); entropy: -sum p log p (large = hard).

A system can be sure and wrong, above all where something is new to it: then neither finds anything, and a few failures
that somebody noticed do. `near_failures` takes the pictures whose features lie closest to any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oculi.predictions import Detections


def hardness(
    probabilities: Float[Tensor, "n classes"], by: Literal["margin", "entropy"] = "margin"
) -> Float[Tensor, " n"]:
    """How hard each picture is, larger = harder."""
    if by == "entropy":
        return -(probabilities * probabilities.clamp_min(1e-12).log()).sum(1)
    top = probabilities.topk(2, 1).values
    return 1 - (top[:, 0] - top[:, 1])


def detection_hardness(answers: Sequence[Detections]) -> Float[Tensor, " n"]:
    """How hard each picture is for a detector: 1 - |2 s - 1| of the score s it is least sure of, 0 without a box."""
    return torch.stack(
        [(1 - (2 * a.scores.cpu() - 1).abs()).max() if len(a.scores) else torch.zeros(()) for a in answers]
    )


def hard_cases(
    probabilities: Float[Tensor, "n classes"], budget: int, by: Literal["margin", "entropy"] = "margin"
) -> Int[Tensor, " budget"]:
    """The indices of the `budget` hardest pictures, hardest first. Raises ValueError for an impossible budget.

    >>> hard_cases(torch.tensor([[0.9, 0.1], [0.55, 0.45], [0.7, 0.3]]), budget=2)
    tensor([1, 2])
    """
    if not 0 < budget <= len(probabilities):
        raise ValueError(f"budget: expected 1 to {len(probabilities)} pictures, got {budget}")
    return torch.argsort(hardness(probabilities, by), descending=True, stable=True)[:budget]


def near_failures(
    features: Float[Tensor, "n features"], failures: Float[Tensor, "known features"], budget: int
) -> Int[Tensor, " budget"]:
    """The indices of the `budget` pictures nearest to a known failure, nearest first.

    >>> near_failures(torch.tensor([[0.0], [5.0], [9.0]]), failures=torch.tensor([[6.0]]), budget=2)
    tensor([1, 2])
    """
    if not 0 < budget <= len(features):
        raise ValueError(f"budget: expected 1 to {len(features)} pictures, got {budget}")
    if len(failures) == 0:
        raise ValueError("failures: expected the features of at least one known failure, got none")
    return torch.argsort(torch.cdist(features, failures).amin(1), stable=True)[:budget]
