r"""Inverted residual: wide inside, narrow outside, the skip path between the narrow ends (the linear bottlenecks).

    expand      1x1, inputs -> e * inputs, norm, activation        (left out at e = 1)
    depthwise   k x k, one filter per channel, norm, activation
    reweight    squeeze-and-excitation                             (MBConv of MnasNet and EfficientNet; `squeeze` > 0)
    project     1x1, -> outputs, norm, no activation: it would destroy what a narrow layer holds
    z = x + F(x) where stride is 1 and outputs equal inputs, else F(x)

Sandler et al.: MobileNetV2, 2018, arXiv:1801.04381; Tan et al.: MnasNet, 2018, arXiv:1807.11626.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.nn.convolution import conv_norm, round_channels
from oculi.nn.squeeze_excitation import SqueezeExcitation
from oculi.nn.stochastic_depth import StochasticDepth


def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6), in place."""
    return F.relu6(x, inplace=True)


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x); in place where no gradient needs x."""
    return F.silu(x, inplace=not x.requires_grad)


ACTIVATIONS = {"relu6": relu6, "silu": silu}


class InvertedResidual(nn.Module):
    """The block; `squeeze`: hidden units of the squeeze-and-excitation (0 = none), `drop`: rate of stochastic depth, `same`:
    padding as TensorFlow's."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        expansion: float = 6,
        kernel: int = 3,
        stride: int = 1,
        activation: Literal["relu6", "silu"] = "relu6",
        squeeze: int = 0,
        drop: float = 0.0,
        same: bool = False,
    ):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation}")
        hidden = round_channels(inputs * expansion) if expansion != 1 else inputs
        self.activation = ACTIVATIONS[activation]
        self.expand = conv_norm(inputs, hidden, 1) if expansion != 1 else None
        self.depthwise = conv_norm(hidden, hidden, kernel, stride, groups=hidden, same=same)
        self.reweight = SqueezeExcitation(hidden, squeeze, self.activation) if squeeze else None
        self.project = conv_norm(hidden, outputs, 1)
        self.skips = stride == 1 and inputs == outputs
        self.drop = StochasticDepth(drop) if self.skips else None

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        hidden = x if self.expand is None else self.activation(self.expand(x))
        hidden = self.activation(self.depthwise(hidden))
        if self.reweight is not None:
            hidden = self.reweight(hidden)
        narrow = self.project(hidden)
        return narrow if self.drop is None else self.drop(narrow).add_(x)
