r"""Hiera: a hierarchical transformer without the bells and whistles, as SAM 2 uses it, with its pyramid.

    patches       7x7 convolution of stride s, overlapping
    positions     a small learned map enlarged to the grid (bicubic) + a learned window repeated over it
    stages        four; width and heads double from each to the next. The first block of a stage pools its queries 2x2
                  (max), so the map halves; its shortcut is a linear layer, pooled likewise
    attention     within windows (zeros fill up the last ones), in a few blocks over everything
    neck          1x1 convolution of each stage's map; the coarsest is enlarged (nearest) and added to the one before

    maps          strides s, 2 s, 4 s, the last with the coarsest's meaning, all with the same channels

Ryali et al.: Hiera, 2023, arXiv:2306.00989; Bolya et al.: Window Attention is Bugged, 2023, arXiv:2311.05613;
Ravi et al.: SAM 2, 2024, arXiv:2408.00714.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.nn.windows import from_windows, to_windows

LEAST_HEAD = 56  # features of an attention head, at least, unless the whole width is less


def halved(x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c"]:
    """2x2 max pooling."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


class HieraBlock(nn.Module):
    """Attention in windows and an MLP, pre-norm. `pooled`: the queries halve the map."""

    def __init__(self, inputs: int, width: int, heads: int, window: int, pooled: bool):
        super().__init__()
        self.heads, self.window, self.pooled = heads, window, pooled
        self.norms = nn.ModuleList([nn.LayerNorm(inputs, eps=1e-6), nn.LayerNorm(width, eps=1e-6)])
        self.query_key_value, self.out = nn.Linear(inputs, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.skip = nn.Linear(inputs, width) if inputs != width else None

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 d"]:
        normed = self.norms[0](x)
        short = x if self.skip is None else self.skip(normed)
        short = halved(short) if self.pooled else short
        parts = to_windows(normed, self.window) if self.window else normed
        query, key, value = self.query_key_value(parts).chunk(3, -1)
        query = halved(query) if self.pooled else query
        q, k, v = (t.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        mixed = self.out(mixed.unflatten(1, query.shape[1:3]))
        x = short + (from_windows(mixed, *short.shape[1:3]) if self.window else mixed)
        return x + self.mlp(self.norms[1](x))


class Hiera(nn.Module):
    """The four stages and the neck. windows: of each stage; whole: the blocks, counted through, that see everything;
    background: side of the small map of positions."""

    def __init__(
        self,
        stride: int,
        width: int,
        depths: list[int],
        windows: list[int],
        whole: list[int],
        background: int,
        channels: int,
    ):
        super().__init__()
        if not len(depths) == len(windows) == 4 or min(depths) < 1:
            raise ValueError(f"depths, windows: expected four stages of at least one block, got {depths} and {windows}")
        heads = max(1, width // LEAST_HEAD)
        self.stride, self.depths = stride, depths
        self.patches = nn.Conv2d(3, width, 7, stride, 3)
        self.positions = nn.Parameter(0.02 * torch.randn(1, width, background, background))
        self.window_positions = nn.Parameter(0.02 * torch.randn(1, width, windows[0], windows[0]))
        blocks: list[nn.Module] = []
        for stage, depth in enumerate(depths):
            for index in range(depth):
                pooled = stage > 0 and index == 0
                window = 0 if len(blocks) in whole else windows[stage - 1 if pooled else stage]
                inputs, outputs = width * 2 ** (stage - 1 if pooled else stage), width * 2**stage
                blocks.append(HieraBlock(inputs, outputs, heads * 2**stage, window, pooled))
        self.blocks = nn.ModuleList(blocks)
        self.neck = nn.ModuleList(nn.Conv2d(width * 2**stage, channels, 1) for stage in (3, 2, 1, 0))

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Maps of strides s, 2 s, 4 s of normalised pictures whose sides are multiples of 8 s."""
        if image.shape[-2] % (8 * self.stride) or image.shape[-1] % (8 * self.stride):
            raise ValueError(f"image: expected sides of a multiple of {8 * self.stride}, got {tuple(image.shape[-2:])}")
        x = self.patches(image)
        small = F.interpolate(self.positions, size=x.shape[-2:], mode="bicubic", align_corners=False)
        rows, columns = (length // self.window_positions.shape[-1] for length in x.shape[-2:])
        x = (x + small + self.window_positions.tile(1, 1, rows, columns)).permute(0, 2, 3, 1)
        stages, number = [], 0
        for depth in self.depths:
            for block in self.blocks[number : number + depth]:
                x = block(x)
            number += depth
            stages.append(x.permute(0, 3, 1, 2))
        maps = [layer(stage) for layer, stage in zip(self.neck, reversed(stages), strict=True)]
        coarse = F.interpolate(maps[0], scale_factor=2.0, mode="nearest")
        return [maps[3], maps[2], maps[1] + coarse]
