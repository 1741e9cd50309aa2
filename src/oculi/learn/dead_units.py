r"""Dead units: maps or neurons that stay at about zero whatever the picture.

    dead_k  =  max over pictures and places of |a_k| <= level          a = activation after the non-linearity

A ReLU whose input is negative for every picture gives no gradient, so it rarely recovers; a leaky one can. Causes: too
high a rate, a large negative bias. The activations are watched where torch computes them, so that `F.relu` and `nn.ReLU`
count alike; each is named by the last layer with weights before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from oculi.learn.multiply_adds import operation_name
from oculi.system import System, evaluating
from oculi.types import images_only

_ACTIVATIONS = {"relu", "gelu", "silu", "hardtanh", "threshold", "hardswish", "elu", "leaky_relu", "mish", "celu"}


def dead_units(
    system: nn.Module, images: Float[Tensor, "n channels height width"], level: float = 1e-6
) -> dict[str, Bool[Tensor, " units"]]:
    """Which units of each activation are dead on all of `images`, by the name of the layer before it.

    Raises ValueError when the network has no activation that can die.
    """
    if len(images) == 0:
        raise ValueError("images: expected at least one, got none")
    watch = _Watch()
    with evaluating(system), watch.names(system), watch:
        for chunk in images.split(128):
            watch.begin()
            if isinstance(system, System) and "forward" not in vars(type(system)):
                system.predict(images_only(chunk))
            else:
                system(chunk)
    if not watch.most:
        raise ValueError(f"system: {type(system).__name__} has no activation that can die")
    return {name: most <= level for name, most in watch.most.items()}


def dead_shares(system: nn.Module, images: Float[Tensor, "n channels height width"]) -> dict[str, float]:
    """The share of dead units per activation."""
    return {name: float(dead.float().mean()) for name, dead in dead_units(system, images).items()}


class _Watch(TorchDispatchMode):
    """Keeps the largest magnitude of every unit after each activation."""

    def __init__(self) -> None:
        super().__init__()
        self.most: dict[str, Tensor] = {}
        self.last, self.times = "input", dict[str, int]()

    def begin(self) -> None:
        """A new forward."""
        self.last, self.times = "input", {}

    @contextmanager
    def names(self, system: nn.Module) -> Iterator[None]:
        """Remember which layer with weights ran last."""

        def remember(name: str) -> Any:
            def hook(*_: Any) -> None:
                self.last = name

            return hook

        handles = [
            module.register_forward_hook(remember(name or type(module).__name__))
            for name, module in system.named_modules()
            if next(module.parameters(recurse=False), None) is not None
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if operation_name(func).rstrip("_") in _ACTIVATIONS and isinstance(output, Tensor) and output.ndim > 1:
            unit = output.ndim - 1 if output.ndim == 3 else 1  # tokens have their features last
            most = output.detach().abs().transpose(0, unit).flatten(1).amax(1)
            self.times[self.last] = self.times.get(self.last, 0) + 1
            name = self.last if self.times[self.last] == 1 else f"{self.last} ({self.times[self.last]})"
            before = self.most.get(name)
            self.most[name] = most if before is None else torch.maximum(before, most)
        return output
