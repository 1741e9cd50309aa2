r"""From a pyramid of maps to one map of the picture's size, each finer map handed across.

    x = coarsest;  from coarse to fine: x = conv(concat(up(conv(x)), map_l));  3x3 convolution to the outputs

Convolutions are 3x3 with batch norm and ReLU, `up` repeats pixels.

Godard, Mac Aodha, Firman, Brostow: Digging Into Self-Supervised Monocular Depth Estimation, 2019, arXiv:1806.01260
(depth decoder); Ronneberger, Fischer, Brox: U-Net, 2015, arXiv:1505.04597.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, cat, nn
from torch.nn import functional as F

from oculi.nn.convolution import conv_relu


class SkipDecoder(nn.Module):
    """channels: of the maps, finest first."""

    def __init__(self, channels: list[int], outputs: int = 1):
        super().__init__()
        coarser = list(zip(channels[1:], channels, strict=False))
        self.reduce = nn.ModuleList(conv_relu(a, b, 3, norm=True) for a, b in coarser)
        self.merge = nn.ModuleList(conv_relu(2 * b, b, 3, norm=True) for _, b in coarser)
        self.head = nn.Conv2d(channels[0], outputs, 3, padding=1)

    def forward(self, maps: list[Tensor], height: int, width: int) -> Float[Tensor, "b outputs height width"]:
        """Maps finest first; a finest one that is smaller than the picture is enlarged at the end."""
        x = maps[-1]
        for reduce, merge, finer in zip(reversed(self.reduce), reversed(self.merge), maps[-2::-1], strict=True):
            x = F.interpolate(reduce(x), size=finer.shape[-2:], mode="nearest")
            x = merge(cat([x, finer], 1))
        x = self.head(x)
        if x.shape[-2:] == (height, width):
            return x
        return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
