r"""Squeeze-and-excitation: one weight per channel, from what the whole map holds.

    squeeze      z_c = mean over positions of x_c                      batch x channels
    excitation   s = gate(W2 act(W1 z + b1) + b2)                      hidden width: `width`, the paper's channels / 16
    scale        y_c = s_c x_c

Gates of 1 give the identity. SENet has act = ReLU and gate = sigmoid; EfficientNet act = SiLU and a width of a quarter of
the block's *input* channels; MobileNetV3 act = ReLU and gate = hard sigmoid.

Hu, Shen, Sun: Squeeze-and-Excitation Networks, 2017, arXiv:1709.01507.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class SqueezeExcitation(nn.Module):
    """The block for maps of `channels`, through `width` hidden units; `activation` and `gate` are functions."""

    def __init__(
        self,
        channels: int,
        width: int,
        activation: Callable[[Tensor], Tensor] = F.relu,
        gate: Callable[[Tensor], Tensor] = torch.sigmoid,
    ):
        super().__init__()
        if width < 1:
            raise ValueError(f"width: expected at least 1 hidden unit, got {width}")
        self.reduce = nn.Conv2d(channels, width, 1)
        self.expand = nn.Conv2d(width, channels, 1)
        self.activation, self.gate = activation, gate

    def weights(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
        """The gates s."""
        squeezed = x.mean((2, 3), keepdim=True)
        return self.gate(self.expand(self.activation(self.reduce(squeezed))))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x * self.weights(x)
