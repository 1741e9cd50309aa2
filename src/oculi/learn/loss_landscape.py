r"""The loss about a minimum, along random directions, each filter of which is as long as the weights' own.

    d_f <- d_f |w_f| / |d_f|      for each filter f;  biases and norms do not move

Without that, a network whose weights are large (as batch norm allows without any effect) would look flatter than it is.

Li, Xu, Taylor, Studer, Goldstein: Visualizing the Loss Landscape of Neural Nets, 2017, arXiv:1712.09913.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from oculi.system import System, evaluating
from oculi.types import Batch


def direction(system: System, generator: torch.Generator) -> list[Tensor]:
    """One random direction, a tensor for each parameter."""
    made = []
    for parameter in system.parameters():
        drawn = torch.randn(parameter.shape, generator=generator).to(parameter)
        if parameter.ndim < 2:
            made.append(torch.zeros_like(drawn))
            continue
        long = drawn.flatten(1).norm(dim=1).clamp_min(1e-12)
        wanted = parameter.detach().flatten(1).norm(dim=1)
        made.append(drawn * (wanted / long).reshape(-1, *[1] * (parameter.ndim - 1)))
    return made


def losses_along(
    system: System, batches: Sequence[Batch], directions: Sequence[list[Tensor]], extent: float = 1.0, points: int = 11
) -> Float[Tensor, "..."]:
    """The mean loss at `points` places from -extent to extent along each of one or two directions; the weights stay."""
    if not 1 <= len(directions) <= 2 or points < 2 or not batches:
        got = f"{len(directions)}, {points} and {len(batches)}"
        raise ValueError(f"directions, points, batches: expected one or two, 2 or more, 1 or more, got {got}")
    axis = torch.linspace(-extent, extent, points)
    places = torch.cartesian_prod(*[axis] * len(directions)).reshape(-1, len(directions))
    start = [p.detach().clone() for p in system.parameters()]
    found = []
    with evaluating(system):
        for place in places:
            for k, parameter in enumerate(system.parameters()):
                parameter.copy_(start[k] + sum(float(a) * d[k] for a, d in zip(place, directions, strict=True)))
            found.append(sum(_loss(system, batch) * len(batch) for batch in batches) / sum(map(len, batches)))
        for parameter, value in zip(system.parameters(), start, strict=True):
            parameter.copy_(value)
    return torch.tensor(found).reshape([points] * len(directions))


def sharpness(curve: Float[Tensor, " points"]) -> float:
    """How much the loss rises on average from its middle, along one direction.

    >>> sharpness(torch.tensor([3.0, 1.0, 3.0]))
    2.0
    """
    middle = len(curve) // 2
    rest = torch.cat([curve[:middle], curve[middle + 1 :]])
    return float((rest - curve[middle]).mean())


def _loss(system: System, batch: Batch) -> float:
    return float(torch.stack(list(system.loss(batch.to(system.device)).values())).sum())
