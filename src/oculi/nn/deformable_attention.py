r"""Deformable attention: each query looks at a few places of its own choice on every scale, not at all of them.

    Z_q = W^O concat_h sum_l sum_k A[q, h, l, k] V_l^h(r_q + delta[q, h, l, k])         sum over l, k of A = 1

V_l = W^V X_l is read bilinearly between pixel centres and is 0 beyond the border; A and delta are linear in the query.
The reference r_q is a point, delta counting pixels of scale l, or a box (x, y, w, h), delta then counting halves of its
size over the number of points: r + delta / K (w, h) / 2. Cost grows with the number of places and not with its square.

At first the H heads look along H directions, K points at 1, 2, .. K steps, with equal weight.

Zhu et al.: Deformable DETR, 2020, arXiv:2010.04159.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.nn.query_decoder import FeedForward

Sizes = list[tuple[int, int]]


def gathered_attend(
    values: Float[Tensor, "b places heads e"],
    sizes: Sizes,
    where: Float[Tensor, "b q heads levels points 2"],
    weights: Float[Tensor, "b q heads levels points"],
) -> Float[Tensor, "b q d"]:
    """The readable reference: four neighbours of each point, looked up and weighted by hand."""
    batch, _, heads, _ = values.shape
    rows = torch.arange(batch)[:, None, None, None]
    head = torch.arange(heads)[None, None, :, None]
    out, first = values.new_zeros(()), 0
    for level, (height, width) in enumerate(sizes):
        place = where[:, :, :, level] * where.new_tensor([width, height]) - 0.5
        low = place.floor()
        for right in (0, 1):
            for down in (0, 1):
                corner = low + low.new_tensor([right, down])
                share = (1 - (place - corner).abs()).prod(-1) * weights[:, :, :, level]
                x, y = corner.long().unbind(-1)
                inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
                index = first + y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
                out = out + (values[rows, index, head] * (share * inside)[..., None]).sum(3)
        first += height * width
    return out.flatten(2)


def attend(
    values: Float[Tensor, "b places heads e"],
    sizes: Sizes,
    where: Float[Tensor, "b q heads levels points 2"],
    weights: Float[Tensor, "b q heads levels points"],
) -> Float[Tensor, "b q d"]:
    """The same by `grid_sample`, level by level.

    sizes: height and width of each level; where: points x, y in [0, 1] of the picture.
    """
    batch, _, heads, _ = values.shape
    grid = (2 * where - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
    shares = weights.permute(3, 0, 2, 1, 4).flatten(1, 2)[:, :, None]
    total: Tensor | None = None
    for level, part in enumerate(values.split([h * w for h, w in sizes], 1)):
        maps = part.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, sizes[level])
        read = F.grid_sample(maps, grid[level], align_corners=False)
        mixed = (read * shares[level]).sum(-1)
        total = mixed if total is None else total + mixed
    assert total is not None
    return total.unflatten(0, (batch, heads)).permute(0, 3, 1, 2).flatten(2)


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention of `heads` heads, `points` places on each of `levels` scales."""

    def __init__(self, width: int, heads: int, levels: int, points: int = 4):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads: expected a divisor of width {width}, got {heads}")
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.offsets, self.weights, self.value, self.out):
            nn.init.zeros_(layer.bias)
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
        for layer in (self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
        angle = torch.arange(heads) * (2 * math.pi / heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1.0, points + 1)[:, None]
        self.offsets.bias.data.copy_((direction[:, None, None] * steps).expand(-1, levels, -1, -1).flatten())

    def forward(
        self,
        query: Float[Tensor, "b q d"],
        reference: Float[Tensor, "#b q coordinates"],
        picture: Float[Tensor, "b places d"],
        sizes: Sizes,
    ) -> Float[Tensor, "b q d"]:
        """query carries its place; reference: x, y or x, y, w, h in [0, 1]; picture: the levels one after the other."""
        shape = (self.heads, self.levels, self.points)
        offset = self.offsets(query).unflatten(-1, (*shape, 2))
        weight = self.weights(query).unflatten(-1, (self.heads, -1)).softmax(-1).unflatten(-1, shape[1:])
        centre = reference[:, :, None, None, None, :2]
        if reference.shape[-1] == 2:
            pixels = query.new_tensor([[width, height] for height, width in sizes])
            where = centre + offset / pixels[:, None]
        else:
            where = centre + offset / self.points * reference[:, :, None, None, None, 2:] * 0.5
        values = self.value(picture).unflatten(-1, (self.heads, -1))
        return self.out(attend(values, sizes, where, weight))


def cell_centres(sizes: Sizes, device: torch.device | None = None) -> Float[Tensor, "1 places 2"]:
    """x, y in [0, 1] of every cell, level by level, row by row.

    >>> cell_centres([(1, 2)])
    tensor([[[0.2500, 0.5000],
             [0.7500, 0.5000]]])
    """
    centres = []
    for height, width in sizes:
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        centres.append(torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], -1).flatten(0, 1))
    return torch.cat(centres)[None]


class DeformableEncoderLayer(nn.Module):
    """Every cell of every scale looks at a few places of all scales around itself."""

    def __init__(self, width: int, heads: int, hidden: int, levels: int, points: int = 4):
        super().__init__()
        self.attention, self.norm = DeformableAttention(width, heads, levels, points), nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, hidden)

    def forward(
        self, x: Float[Tensor, "b n d"], places: Float[Tensor, "1 n d"], centres: Float[Tensor, "1 n 2"], sizes: Sizes
    ) -> Float[Tensor, "b n d"]:
        """places: added to what asks; centres: where each cell is."""
        return self.feed_forward(self.norm(x + self.attention(x + places, centres, x, sizes)))
