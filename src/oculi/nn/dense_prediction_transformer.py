r"""DPT: one value per pixel from the tokens of a vision transformer.

    taps         the tokens after a quarter, a half, three quarters and all of the layers
    readout      the class token joins each patch's token: GELU(W [token, cls])
    reassemble   1x1 convolution to the neck's channels, resized to strides P/4, P/2, P and 2P; 3x3 convolution to F
    fusion       from the coarsest: x = up2(RCU(x + RCU(finer))), 1x1 convolution;  RCU(x) = x + conv(ReLU(conv(ReLU(x))))
    head         3x3 convolution to F/2, twice as large, 3x3 convolution to 32, ReLU, 1x1 convolution

    image        batch x C x S x S, P = 16
    output       batch x S x S, any sign

Ranftl, Bochkovskiy, Koltun: Vision Transformers for Dense Prediction, 2021, arXiv:2103.13413.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.nn.attention import TransformerBlock

PATCH = 16


class ResidualConvUnit(nn.Module):
    """Two 3x3 convolutions, each after a ReLU, and the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Float[Tensor, "b width h w"]) -> Float[Tensor, "b width h w"]:
        first, second = self.convs
        return x + second(F.relu(first(F.relu(x))))


class Fusion(nn.Module):
    """What comes from coarser levels with a finer map, twice as large. The coarsest has no other to join."""

    def __init__(self, width: int, joins: bool):
        super().__init__()
        self.finer = ResidualConvUnit(width) if joins else None
        self.unit = ResidualConvUnit(width)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, x: Float[Tensor, "b width h w"], finer: Tensor | None = None) -> Float[Tensor, "b width h2 w2"]:
        if self.finer is not None and finer is not None:
            if finer.shape != x.shape:
                finer = F.interpolate(finer, size=x.shape[-2:], mode="bilinear", align_corners=False)
            x = x + self.finer(finer)
        x = F.interpolate(self.unit(x), scale_factor=2, mode="bilinear", align_corners=True)
        return self.project(x)


def resizing(channels: int, level: int) -> nn.Module:
    """To four times, twice, once and half the size."""
    if level < 2:
        factor = 4 >> level
        return nn.ConvTranspose2d(channels, channels, factor, factor)
    return nn.Identity() if level == 2 else nn.Conv2d(channels, channels, 3, 2, 1)


class DensePredictionTransformer(nn.Module):
    """The whole network. Raises ValueError for a size that the patches do not divide, or layers that are not quarters."""

    def __init__(
        self, image_size: int, channels: int, width: int, depth: int, heads: int, neck: list[int], fusion: int
    ):
        super().__init__()
        if image_size % PATCH or depth % 4 or len(neck) != 4:
            raise ValueError(
                f"image_size, depth, neck: expected multiples of {PATCH} and 4, and 4 widths, got {image_size}, {depth}"
                f" and {neck}"
            )
        side = image_size // PATCH
        self.every = depth // 4
        self.patches = nn.Conv2d(channels, width, PATCH, PATCH)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 1 + side * side, width) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.readouts = nn.ModuleList(nn.Sequential(nn.Linear(2 * width, width), nn.GELU()) for _ in neck)
        self.reassemble = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, c, 1), resizing(c, i), nn.Conv2d(c, fusion, 3, padding=1, bias=False))
            for i, c in enumerate(neck)
        )
        self.fusions = nn.ModuleList(Fusion(fusion, joins=i > 0) for i in range(4))
        self.head = nn.Sequential(
            nn.Conv2d(fusion, fusion // 2, 3, padding=1), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(fusion // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1),
        )  # fmt: skip

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w"]:
        maps = self.patches(image)
        tokens = torch.cat([self.cls.expand(len(image), -1, -1), maps.flatten(2).transpose(1, 2)], 1)
        if tokens.shape[1] != self.positions.shape[1]:
            raise ValueError(
                f"image: expected the {self.positions.shape[1] - 1} patches learned, got {maps[0, 0].numel()}"
            )
        x = tokens + self.positions
        levels: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if (index + 1) % self.every == 0:
                level = len(levels)
                cls = x[:, :1].expand(-1, x.shape[1] - 1, -1)
                read = self.readouts[level](torch.cat([x[:, 1:], cls], -1))
                levels.append(self.reassemble[level](read.transpose(1, 2).unflatten(2, tuple(maps.shape[-2:]))))
        fused = self.fusions[0](levels[3])
        for fusion, finer in zip(self.fusions[1:], levels[2::-1], strict=True):
            fused = fusion(fused, finer)
        return self.head(fused)[:, 0]
