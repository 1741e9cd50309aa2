r"""SAM 2's memory: what was seen and said in earlier frames, kept as maps and vectors, and looked at from the next frame.

    memory        conv(mask) + conv(map) -> two ConvNeXt blocks -> 1x1 convolution to few channels, one map a frame
    attention     of the frame's map to itself, then to all kept memories and object pointers, then an MLP; four times,
                  pre-norm. Queries and keys are turned by angles that grow with x (first half of a head's features) and y
                  (second half): rotary positions, the same for each frame's memory, none for pointers

Positions of memories are sines of y and x, added to keys only.

Ravi et al.: SAM 2, 2024, arXiv:2408.00714; Heo et al.: Rotary Position Embedding for Vision Transformer, 2024,
arXiv:2403.13298; Carion et al.: DETR (sines of y and x), 2020, arXiv:2005.12872.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.nn.mask_decoder import NarrowAttention
from oculi.nn.prompt_encoder import ChannelNorm

NEARNESS = 3.0  # of first biases: the place itself gets most of a map's attention, which else takes long to be learned


def sine_map(channels: int, rows: int, columns: int, device: torch.device) -> Float[Tensor, "channels rows columns"]:
    """Sines and cosines of y in the first half of the channels, of x in the second, one turn over the whole side."""
    half = channels // 2
    rate = 10000.0 ** (2 * (torch.arange(half, device=device) // 2) / half)

    def along(length: int) -> Float[Tensor, "length half"]:
        place = torch.arange(1, length + 1, device=device) / (length + 1e-6) * 2 * math.pi
        angle = place[:, None] / rate
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], -1).flatten(1)

    y, x = along(rows)[:, None].expand(-1, columns, -1), along(columns)[None].expand(rows, -1, -1)
    return torch.cat([y, x], -1).permute(2, 0, 1)


def sine_of_age(age: Float[Tensor, " n"], channels: int) -> Float[Tensor, "n channels"]:
    """Sines, then cosines, of numbers in [0, 1]."""
    half = channels // 2
    angle = age[:, None] / 10000.0 ** (2 * (torch.arange(half, device=age.device) // 2) / half)
    return torch.cat([angle.sin(), angle.cos()], -1)


def axial_angles(features: int, rows: int, columns: int, device: torch.device) -> Float[Tensor, "places half"]:
    """For each place of a map the angles of its features / 2 pairs: half of them by x, half by y."""
    rate = 10000.0 ** (-torch.arange(0, features // 2, 2, device=device) / (features // 2))
    y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    return torch.cat([x.flatten()[:, None] * rate, y.flatten()[:, None] * rate], 1)


def turned(x: Float[Tensor, "*b n d"], angles: Float[Tensor, "n half"]) -> Float[Tensor, "*b n d"]:
    """Each pair of neighbouring features turned by its angle."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)


class RotaryAttention(NarrowAttention):
    """Attention whose queries and keys are turned by their places; the last `loose` keys have none."""

    def forward(  # type: ignore[override]
        self,
        query: Float[Tensor, "b n d"],
        key: Float[Tensor, "b m e"],
        value: Float[Tensor, "b m e"],
        angles: Float[Tensor, "n half"],
        loose: int = 0,
    ) -> Float[Tensor, "b n d"]:
        q, k, v = self.split(self.query(query)), self.split(self.key(key)), self.split(self.value(value))
        placed = k.shape[2] - loose
        again = angles.repeat(placed // len(angles), 1)
        k = torch.cat([turned(k[:, :, :placed], again), k[:, :, placed:]], 2)
        mixed = F.scaled_dot_product_attention(turned(q, angles), k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


class MemoryBlock(nn.Module):
    """The map looks at itself, then at the memories."""

    def __init__(self, width: int, memory_width: int, hidden: int):
        super().__init__()
        self.own = RotaryAttention(width, width, 1)
        self.to_memory = RotaryAttention(width, width, 1, memory_width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        for part in (self.to_memory.query, self.to_memory.key):  # equal and turned by place: near places look alike
            nn.init.constant_(part.bias, NEARNESS)

    def forward(self, x: Tensor, memory: Tensor, places: Tensor, angles: Tensor, loose: int) -> Tensor:
        normed = self.norms[0](x)
        x = x + self.own(normed, normed, normed, angles)
        x = x + self.to_memory(self.norms[1](x), memory + places, memory, angles, loose)
        return x + self.mlp(self.norms[2](x))


class MemoryAttention(nn.Module):
    """A frame's map conditioned on memories."""

    def __init__(self, width: int, memory_width: int, depth: int, hidden: int):
        super().__init__()
        if width % 4:
            raise ValueError(f"width: expected a multiple of 4, got {width}")
        self.blocks = nn.ModuleList(MemoryBlock(width, memory_width, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        image: Float[Tensor, "n c h w"],
        memory: Float[Tensor, "n m e"],
        places: Float[Tensor, "n m e"],
        loose: int,
    ) -> Float[Tensor, "n c h w"]:
        """memory: maps of as many places as the image's one after the other, then `loose` pointers; places: added to keys."""
        channels, rows, columns = image.shape[1:]
        x = (image + 0.1 * sine_map(channels, rows, columns, image.device)).flatten(2).transpose(1, 2)
        angles = axial_angles(channels, rows, columns, image.device)
        for block in self.blocks:
            x = block(x, memory, places, angles, loose)
        return self.norm(x).transpose(1, 2).unflatten(2, (rows, columns))


class FuserBlock(nn.Module):
    """ConvNeXt's: depthwise 7x7, layer norm, MLP, a scale for each channel, residual."""

    def __init__(self, width: int):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        mixed = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + (self.scale * mixed).permute(0, 3, 1, 2)


class MemoryEncoder(nn.Module):
    """One frame's memory: what was seen (the encoder's map) with what was said (the mask at the picture's size)."""

    def __init__(self, width: int, memory_width: int, stride: int):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for _ in range(stride.bit_length() - 1):
            layers += [nn.Conv2d(channels, 4 * channels, 3, 2, 1), ChannelNorm(4 * channels, eps=1e-6), nn.GELU()]
            channels *= 4
        self.mask = nn.Sequential(*layers, nn.Conv2d(channels, width, 1))
        self.image = nn.Conv2d(width, width, 1)
        self.fuse = nn.Sequential(FuserBlock(width), FuserBlock(width))
        self.out = nn.Conv2d(width, memory_width, 1)

    def forward(
        self, image: Float[Tensor, "n c h w"], mask: Float[Tensor, "n height width"]
    ) -> Float[Tensor, "n e h w"]:
        return self.out(self.fuse(self.image(image) + self.mask(mask[:, None])))
