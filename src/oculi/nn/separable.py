r"""Depthwise and depthwise separable convolutions: where and what are looked at one after the other.

    depthwise    y_c = d_c * x_c                 one k x k filter per channel (groups = C); channels are never mixed
    pointwise    z_o = sum_c p_oc y_c            a 1x1 convolution; places are never mixed
    together     z_o = sum_c (p_oc d_c) * x_c    a dense convolution whose kernel is p_oc d_c, of rank one in (o, place)

    weights            depthwise k^2 C_in,  pointwise C_in C_out,  dense k^2 C_in C_out
    cost over dense    1 / C_out + 1 / k^2       exactly, for weights and for multiply-adds at stride 1

Xception has neither norm nor activation between the two; MobileNet has both, so it is made of two `conv_norm` instead.

Sifre: Rigid-motion scattering for image classification, 2014. Chollet: Xception, 2016, arXiv:1610.02357.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


def depthwise_conv(channels: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """One filter per channel, without bias; padding keeps the size at stride 1. `kernel` is odd."""
    if kernel % 2 == 0:
        raise ValueError(f"kernel: expected an odd size, so that padding keeps the map's, got {kernel}")
    padding = dilation * (kernel // 2)
    return nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)


class SeparableConv(nn.Module):
    """A depthwise convolution, then a pointwise one; neither has a bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.depthwise = depthwise_conv(inputs, kernel, stride, dilation)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        return self.pointwise(self.depthwise(x))

    def dense_kernel(self) -> Float[Tensor, "outputs inputs kernel kernel"]:
        """The kernel of the dense convolution that does the same."""
        return self.pointwise.weight * self.depthwise.weight[:, 0]


def separable_cost(outputs: int, kernel: int) -> float:
    """Weights (or multiply-adds at stride 1) of a separable convolution over those of the dense one.

    >>> round(separable_cost(outputs=64, kernel=3), 6)
    0.126736
    """
    return 1 / outputs + 1 / kernel**2
