r"""Layers of set prediction: an encoder over the places of a map, and queries that look at it and at one another.

    encoder layer   x = LN(x + A(x + R, x + R, x));                               x = LN(x + MLP(x))
    decoder layer   q = LN(q + A(q + P, q + P, q));  q = LN(q + A(q + P, y + R, y));  q = LN(q + MLP(q))

A(query, key, value) is multi-head attention, R the places of the map, P the learned ones of the queries; MLP has one
hidden layer with ReLU. `cross_first` asks the picture before the other queries. Places of a map are sines and cosines of

    2 pi (row + 1) / height / 10000^(2i / c),   c = channels / 2, rows in the first half of the channels, columns after

Carion et al.: End-to-End Object Detection with Transformers, 2020, arXiv:2005.12872.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.nn.cross_attention import CrossAttention


def sine_positions(
    height: int, width: int, channels: int, device: torch.device | None = None
) -> Float[Tensor, "places channels"]:
    """The places of a map, row by row. ValueError unless channels is a multiple of 4."""
    if channels % 4:
        raise ValueError(f"channels: expected a multiple of 4, got {channels}")
    half = channels // 2
    period = 10000 ** (torch.arange(0, half, 2, dtype=torch.float32, device=device) / half)

    def waves(length: int) -> Tensor:
        place = torch.arange(1, length + 1, dtype=torch.float32, device=device) / (length + 1e-6) * 2 * math.pi
        angle = place[:, None] / period
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)

    rows, columns = waves(height)[:, None].expand(-1, width, -1), waves(width)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)


def perceptron(inputs: int, hidden: int, outputs: int, layers: int = 3) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    sizes = [inputs, *[hidden] * (layers - 1), outputs]
    parts: list[nn.Module] = []
    for index in range(layers):
        parts += [nn.Linear(sizes[index], sizes[index + 1]), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class FeedForward(nn.Module):
    """LN(x + MLP(x)), the end of both kinds of layer."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0, smooth: bool = False):
        super().__init__()
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, width)
        for layer in (self.first, self.second):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.norm, self.dropout, self.smooth = nn.LayerNorm(width), nn.Dropout(dropout), smooth

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        hidden = F.gelu(self.first(x)) if self.smooth else F.relu(self.first(x))
        return self.norm(x + self.dropout(self.second(self.dropout(hidden))))


class EncoderLayer(nn.Module):
    """Every place of the map looks at every other. smooth: GELU in place of ReLU."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0, smooth: bool = False):
        super().__init__()
        self.attention, self.norm = CrossAttention(width, heads), nn.LayerNorm(width)
        self.feed_forward, self.dropout = FeedForward(width, hidden, dropout, smooth), nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b n d"], places: Float[Tensor, "#b n d"]) -> Float[Tensor, "b n d"]:
        placed = x + places
        return self.feed_forward(self.norm(x + self.dropout(self.attention(placed, placed, x))))


class DecoderLayer(nn.Module):
    """Queries look at one another and at the picture, in this order unless `cross_first`."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0, cross_first: bool = False):
        super().__init__()
        self.among, self.among_norm = CrossAttention(width, heads), nn.LayerNorm(width)
        self.cross, self.cross_norm = CrossAttention(width, heads), nn.LayerNorm(width)
        self.feed_forward, self.dropout = FeedForward(width, hidden, dropout), nn.Dropout(dropout)
        self.cross_first = cross_first

    def look_around(self, x: Float[Tensor, "b n d"], own: Float[Tensor, "#b n d"]) -> Float[Tensor, "b n d"]:
        """Self-attention of the queries, whose places are `own`."""
        placed = x + own
        return self.among_norm(x + self.dropout(self.among(placed, placed, x)))

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        own: Float[Tensor, "#b n d"],
        picture: Float[Tensor, "b m d"],
        placed: Float[Tensor, "b m d"],
        mask: Tensor | None = None,
    ) -> Float[Tensor, "b n d"]:
        """own: places of the queries; placed: the picture with its places; mask: where each query may look."""
        if not self.cross_first:
            x = self.look_around(x, own)
        x = self.cross_norm(x + self.dropout(self.cross(x + own, placed, picture, mask)))
        if self.cross_first:
            x = self.look_around(x, own)
        return self.feed_forward(x)


class QueryDecoder(nn.Module):
    """Learned queries, which begin as zeros with learned places, through layers of decoding; one norm after each."""

    def __init__(self, width: int, heads: int, hidden: int, layers: int, queries: int, dropout: float = 0.0):
        super().__init__()
        if layers < 1 or queries < 1:
            raise ValueError(f"layers, queries: expected at least 1 of each, got {layers} and {queries}")
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.layers = nn.ModuleList(DecoderLayer(width, heads, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, picture: Float[Tensor, "b m d"], places: Float[Tensor, "#b m d"]
    ) -> list[Float[Tensor, "b queries d"]]:
        """The queries after each layer, normed."""
        placed, own = picture + places, self.queries[None]
        x = torch.zeros_like(own).expand(picture.shape[0], -1, -1)
        found = []
        for layer in self.layers:
            x = layer(x, own, picture, placed)
            found.append(self.norm(x))
        return found
