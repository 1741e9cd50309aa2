r"""Initialisers by name. What torch has is torch's; LSUV and Fixup are here.

    uniform, normal              U[-0.2, 0.2] and N(0, 0.1^2) where nothing else is said
    xavier                       variance 2 / (fan_in + fan_out), for tanh
    kaiming                      variance 2 / fan_in, for ReLU
    orthogonal                   W^T W = I
    zeros                        a saddle point of ReLU networks, never left: every gradient is zero

LSUV (Mishkin and Matas 2015, 1511.06422) starts orthogonal and divides each layer, from the first to the last, by the
standard deviation of its output on a batch of data, until the variance is 1 within 0.1.

Fixup (Zhang, Dauphin, Ma 2019, 1901.09321) does without normalisation: of L residual branches with m layers each, the
last layer starts at zero and the others are He's times L^(-1 / (2m - 2)); so does the classifier at zero. The scalar
biases and multipliers of a branch are `FixupBranch`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d
INITIALISERS: dict[str, Callable[..., Any]] = {
    "uniform": lambda weight, bound=0.2: nn.init.uniform_(weight, -bound, bound),
    "normal": lambda weight, std=0.1: nn.init.normal_(weight, std=std),
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "kaiming_uniform": lambda weight, **how: nn.init.kaiming_uniform_(weight, nonlinearity="relu", **how),
    "kaiming_normal": lambda weight, **how: nn.init.kaiming_normal_(weight, nonlinearity="relu", **how),
    "orthogonal": nn.init.orthogonal_,
    "zeros": nn.init.zeros_,
}


def initialise(network: nn.Module, name: str, **options: Any) -> None:
    """Give every linear and convolution layer new weights, and biases of zero. Options are the initialiser's own."""
    if name not in INITIALISERS:
        raise ValueError(f"name: expected one of {', '.join(INITIALISERS)}, got {name}")
    for layer in layers(network):
        INITIALISERS[name](layer.weight, **options)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def layers(network: nn.Module) -> list[Layer]:
    """Its linear and convolution layers, in the order in which they were defined."""
    return [module for module in network.modules() if isinstance(module, Layer)]


@torch.no_grad()
def lsuv_init(network: nn.Module, data: Float[Tensor, "b ..."], tolerance: float = 0.1, tries: int = 10) -> None:
    """Layer-sequential unit variance on a batch of inputs; layers that the batch does not reach stay orthogonal."""
    initialise(network, "orthogonal")
    was = network.training
    network.eval()
    for layer in layers(network):
        for _ in range(tries):
            variance = _output_variance(network, layer, data)
            if variance is None or abs(variance - 1) <= tolerance:
                break
            if variance == 0:
                raise ValueError("data: a layer's output does not vary over the batch, so it has no variance to scale")
            layer.weight /= variance**0.5
    network.train(was)


def _output_variance(network: nn.Module, layer: nn.Module, data: Tensor) -> float | None:
    seen: list[float] = []
    handle = layer.register_forward_hook(lambda module, given, output: seen.append(float(output.var())))
    try:
        network(data)
    finally:
        handle.remove()
    return seen[0] if seen else None


@torch.no_grad()
def fixup_init(branches: Sequence[nn.Module] | nn.ModuleList, classifier: nn.Module | None = None) -> None:
    """Fixup over the residual branches of a network, each a module with two or more layers."""
    for index, branch in enumerate(branches):
        own = layers(branch)
        if len(own) < 2:
            raise ValueError(f"branches: expected at least two layers in each, branch {index} has {len(own)}")
        scale = len(branches) ** (-1 / (2 * len(own) - 2))
        for layer in own[:-1]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            layer.weight *= scale
        nn.init.zeros_(own[-1].weight)
        for layer in own:
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in layers(classifier) if classifier is not None else []:
        nn.init.zeros_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class FixupBranch(nn.Module):
    """A residual branch with a scalar bias before each layer and activation, and a multiplier behind the last layer."""

    def __init__(self, *sequence: nn.Module):
        super().__init__()
        if len(layers(nn.ModuleList(sequence))) < 2:
            raise ValueError(f"sequence: expected at least two layers, got {len(sequence)} modules")
        self.sequence = nn.ModuleList(sequence)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in range(len(sequence) + 1))
        self.multiplier = nn.Parameter(torch.ones(()))

    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        for module, bias in zip(self.sequence, self.biases, strict=False):
            x = module(x + bias)
        return x * self.multiplier + self.biases[-1]
