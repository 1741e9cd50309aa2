r"""Atrous spatial pyramid pooling: the same map seen at several scales at once.

    1x1 convolution                                      what is here
    3x3 convolution at each of several rates r           what is about r places away
    mean over the map, 1x1 convolution, spread again     what the picture is
    concatenated, 1x1 convolution, dropout

Each convolution has batch norm and ReLU. DeepLabv3+ makes the atrous ones depthwise separable. Where a rate is as large
as the map, of the nine taps only the middle one meets anything but padding, which is why the mean is there.

Chen, Papandreou, Schroff, Adam: Rethinking Atrous Convolution, 2017, arXiv:1706.05587.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.nn.convolution import conv_norm
from oculi.nn.separable import SeparableConv


class ASPP(nn.Module):
    """Maps of `outputs` channels from maps of `inputs`, of the same size."""

    def __init__(self, inputs: int, outputs: int, rates: Sequence[int], separable: bool = False, dropout: float = 0.5):
        super().__init__()
        if not rates or min(rates) < 1:
            raise ValueError(f"rates: expected at least one, each of 1 or more, got {list(rates)}")
        self.branches = nn.ModuleList([_activated(nn.Conv2d(inputs, outputs, 1, bias=False), outputs)])
        for rate in rates:
            layer: nn.Module = SeparableConv(inputs, outputs, dilation=rate)
            if not separable:
                layer = nn.Conv2d(inputs, outputs, 3, padding=rate, dilation=rate, bias=False)
            self.branches.append(_activated(layer, outputs))
        self.picture = nn.Sequential(*conv_norm(inputs, outputs, 1), nn.ReLU())
        self.project = nn.Sequential(*conv_norm((len(rates) + 2) * outputs, outputs, 1), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h w"]:
        whole = self.picture(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        return self.project(torch.cat([*(branch(x) for branch in self.branches), whole], 1))


def _activated(layer: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU())


def resize(
    x: Float[Tensor, "b c h w"], size: Sequence[int], corners: bool = False
) -> Float[Tensor, "b c height width"]:
    """Bilinear upsampling of maps; with `corners` the outermost places of both fall together."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=corners)
