r"""SAM's image encoder: a plain ViT whose attention stays within windows, but for a few layers that see everything.

    patches     convolution of stride P, learned positions of a fixed grid
    attention   softmax(q k^T / sqrt(d) + q . r_y + q . r_x) v,   r_y, r_x: a learned vector per head channel for each
                difference of rows and of columns
    windows     S x S tokens each, zeros filling the last ones up (they are attended to, as in the published network)
    neck        1x1 and 3x3 convolution without bias, layer norm over the channels after each

    image       batch x 3 x H x W
    map         batch x channels x H / P x W / P

The paper starts from the weights of masked autoencoding (MAE). Two things are done otherwise for speed, with equal
results: queries, keys and values are computed before the windows are filled up, so that the zeros cost nothing, and
attention over a whole large map goes query row by query row block, so that its biases never exist all at once.

Kirillov et al.: Segment Anything, 2023, arXiv:2304.02643; Li et al.: Exploring Plain Vision Transformer Backbones for
Object Detection (ViTDet), 2022, arXiv:2203.16527; Li et al.: MViTv2, 2021, arXiv:2112.01526.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.nn.prompt_encoder import ChannelNorm
from oculi.nn.windows import from_windows, to_windows

MOST_BIASES = 1 << 23  # numbers of the attention's bias that one block of a picture's queries may have


def offsets(length: int, device: torch.device) -> Tensor:
    """`length x length` indices of a table of 2 length - 1 differences, query minus key."""
    place = torch.arange(length, device=device)
    return place[:, None] - place + length - 1


class PositionedAttention(nn.Module):
    """Self-attention over a map of `size` x `size` tokens that knows how far apart they are."""

    def __init__(self, width: int, heads: int, size: int):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads: expected a divisor of width {width}, got {heads}")
        self.heads, self.size = heads, size
        self.query_key_value, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rows = nn.Parameter(torch.zeros(2 * size - 1, width // heads))
        self.columns = nn.Parameter(torch.zeros(2 * size - 1, width // heads))

    def forward(self, x: Float[Tensor, "b h w c"], windowed: bool) -> Float[Tensor, "b h w c"]:
        """Over windows of the map, or over all of it."""
        height, width = x.shape[1:3]
        projected = self.query_key_value(x)
        if windowed:
            projected = to_windows(projected, self.size, self.query_key_value.bias)  # what a token of zeros gives
        parts = projected.unflatten(-1, (3, self.heads, -1)).permute(3, 0, 4, 1, 2, 5)
        query, key, value = parts[0], parts[1].flatten(2, 3), parts[2].flatten(2, 3)
        near_rows = self.rows[offsets(self.size, x.device)]
        near_columns = self.columns[offsets(self.size, x.device)]
        per_row = self.heads * width * height * width
        block = self.size if windowed else max(1, MOST_BIASES // per_row)
        seen = [
            self._attend(query[:, :, i : i + block], key, value, near_rows[i : i + block], near_columns)
            for i in range(0, self.size, block)
        ]
        mixed = (seen[0] if len(seen) == 1 else torch.cat(seen, 2)).permute(0, 2, 3, 1, 4).flatten(3)
        return self.out(from_windows(mixed, height, width) if windowed else mixed)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, near_rows: Tensor, near_columns: Tensor
    ) -> Float[Tensor, "b heads rows columns d"]:
        """Some rows of queries against the whole map."""
        by_row = torch.einsum("bnhwd,hkd->bnhwk", query, near_rows)
        by_column = torch.einsum("bnhwd,wkd->bnhwk", query, near_columns)
        bias = (by_row[..., None] + by_column[..., None, :]).flatten(4).flatten(2, 3)
        return F.scaled_dot_product_attention(query.flatten(2, 3), key, value, bias).unflatten(2, query.shape[2:4])


class WindowBlock(nn.Module):
    """Attention and MLP with their residuals, layer norm before each."""

    def __init__(self, width: int, heads: int, grid: int, window: int):
        super().__init__()
        self.windowed = window > 0
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attention = PositionedAttention(width, heads, window or grid)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        x = x + self.attention(self.norms[0](x), self.windowed)
        return x + self.mlp(self.norms[1](x))


class ImageEncoder(nn.Module):
    """The picture's map for all prompts. The layers of `whole` see the whole map, the others windows."""

    def __init__(
        self,
        image_size: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        window: int,
        whole: list[int],
        channels: int,
    ):
        super().__init__()
        if image_size % patch:
            raise ValueError(f"patch: expected a divisor of image_size {image_size}, got {patch}")
        self.grid = image_size // patch
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.positions = nn.Parameter(torch.empty(1, self.grid, self.grid, width))
        self.blocks = nn.ModuleList(
            WindowBlock(width, heads, self.grid, 0 if index in whole else window) for index in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(width, channels, 1, bias=False),
            ChannelNorm(channels, eps=1e-6),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            ChannelNorm(channels, eps=1e-6),
        )
        nn.init.normal_(self.positions, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b channels rows columns"]:
        """The map of normalised pictures of the one size that the positions are made for."""
        x = self.patches(image).permute(0, 2, 3, 1)
        if x.shape[1:3] != self.positions.shape[1:3]:
            side = self.grid * self.patches.kernel_size[0]
            raise ValueError(f"image: expected {side}x{side} pixels, got {image.shape[-2]}x{image.shape[-1]}")
        x = x + self.positions
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))
