r"""Swin Transformer: attention in small windows that move, on a pyramid.

Every token attends to its own M x M window alone, so the cost grows with the picture's area instead of its square. In
every second block the windows are shifted by M / 2: what was on two sides of a border is now together. The shift is
cyclic (`roll`), and a mask keeps apart what is not adjacent in the picture:

    A  = softmax(Q Kᵀ / sqrt(d) + B + mask) V          B[i, j] = table[p_i - p_j], learned, (2M - 1)² x heads
    z' = z + (S)W-MSA(LN(z)),   z = z' + MLP(LN(z'))   MLP = Linear, GELU, Linear of 4 times the width

Between stages every 2x2 of tokens is put side by side and mapped to twice the width (patch merging).

    image                      batch x C x H x W
    patches                    4x4 stride 4 (`patch`), LN
    stages 1..4                strides 4, 8, 16, 32, widths w, 2w, 4w, 8w; between them concatenate 2x2, LN, Linear
    LN, mean over tokens       batch x features
    linear                     batch x classes

                width   depths          heads
    Swin-T      96      2, 2, 6, 2      3, 6, 12, 24
    Swin-S      96      2, 2, 18, 2     3, 6, 12, 24
    Swin-B      128     2, 2, 18, 2     4, 8, 16, 32
    Swin-L      192     2, 2, 18, 2     6, 12, 24, 48

The defaults are Swin-T; its authors train T, S, B with stochastic depth 0.2, 0.3, 0.5. Any size: zeros fill a picture up to
whole patches (torchvision drops what is left over) and a map, after the norm, to whole windows, and to even sides before
it is merged. Differs from the paper as torchvision does: padded tokens may be attended to, and a map no larger than a
window is not shifted; and in the initial weights, which are torch's own: their deviation, 0.58 / sqrt(inputs), is the
paper's 0.02 at 768 channels and fits narrow networks as well.

Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo: Swin Transformer, 2021, arXiv:2103.14030.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.nn.stochastic_depth import StochasticDepth, drop_rates
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses


def relative_positions(window: int) -> Int[Tensor, "tokens tokens"]:
    """Where in the table of (2M - 1)² offsets the pair (query, key) of an M x M window looks.

    >>> relative_positions(2)
    tensor([[4, 3, 1, 0],
            [5, 4, 2, 1],
            [7, 6, 4, 3],
            [8, 7, 5, 4]])
    """
    row, column = torch.arange(window**2) // window, torch.arange(window**2) % window
    down, right = row[:, None] - row + window - 1, column[:, None] - column + window - 1
    return down * (2 * window - 1) + right


def shift_mask(
    height: int, width: int, window: int, shift: tuple[int, int], device: torch.device | None = None
) -> Float[Tensor, "windows tokens tokens"]:
    """0 where two tokens of a window are adjacent in the picture, -inf where the cyclic shift has brought them together.

    >>> shift_mask(4, 2, 2, (1, 0))[1]
    tensor([[0., 0., -inf, -inf],
            [0., 0., -inf, -inf],
            [-inf, -inf, 0., 0.],
            [-inf, -inf, 0., 0.]])
    """
    wrapped_row = (torch.arange(height, device=device) >= height - shift[0]).view(-1, 1, window, 1)
    wrapped_column = (torch.arange(width, device=device) >= width - shift[1]).view(1, -1, 1, window)
    region = (2 * wrapped_row + wrapped_column).flatten(2).flatten(0, 1)
    apart = region[:, :, None] != region[:, None, :]
    return torch.zeros(apart.shape, device=device).masked_fill_(apart, -math.inf)


class WindowAttention(nn.Module):
    """Multi-head self-attention in windows of `window` x `window` tokens, moved by `shift` tokens."""

    index: Tensor

    def __init__(self, width: int, heads: int, window: int, shift: int):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads: expected a divisor of width {width}, got {heads}")
        self.heads, self.window, self.shift = heads, window, shift
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.register_buffer("index", relative_positions(window), persistent=False)

    def bias(self, height: int, width: int, shift: tuple[int, int]) -> Float[Tensor, "windows heads tokens tokens"]:
        """What is added to the scores: one for all windows without a shift, else one for each."""
        bias = self.table[self.index].permute(2, 0, 1)[None]
        if shift == (0, 0):
            return bias
        return bias + shift_mask(height, width, self.window, shift, bias.device)[:, None].to(bias.dtype)

    def forward(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b h w d"]:
        size, side = x.shape[1:3], self.window
        if size[0] % side or size[1] % side:
            x = F.pad(x, (0, 0, 0, -size[1] % side, 0, -size[0] % side))
        batch, height, width, _ = x.shape
        shift = self.shift if height > side else 0, self.shift if width > side else 0
        if shift != (0, 0):
            x = x.roll((-shift[0], -shift[1]), (1, 2))
        bias = self.bias(height, width, shift)
        rows, columns = height // side, width // side
        # one copy cuts windows and heads; windows whose bias differs stand beside the heads, the others in the batch
        cut = self.query_key_value(x).view(batch, rows, side, columns, side, 3, self.heads, -1)
        cut = cut.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, len(bias) * self.heads, side**2, cut.shape[-1])
        x = F.scaled_dot_product_attention(cut[0], cut[1], cut[2], bias.flatten(0, 1)[None])
        x = x.view(batch, rows, columns, self.heads, side, side, -1).permute(0, 1, 4, 2, 5, 3, 6)
        x = self.out(x.reshape(batch, height, width, -1))
        if shift != (0, 0):
            x = x.roll(shift, (1, 2))
        return x if x.shape[1:3] == size else x[:, : size[0], : size[1]].contiguous()


class SwinBlock(nn.Module):
    """Attention in windows and an MLP in every token, each with a residual and a layer norm before it."""

    def __init__(self, width: int, heads: int, window: int, shift: int, drop: float):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = WindowAttention(width, heads, window, shift)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = StochasticDepth(drop)

    def forward(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b h w d"]:
        x = x + self.drop(self.attention(self.norms[0](x)))
        return x + self.drop(self.mlp(self.norms[1](x)))


class PatchMerging(nn.Module):
    """Every 2x2 of tokens becomes one of twice the width."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduce = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b h2 w2 twice_d"]:
        if x.shape[1] % 2 or x.shape[2] % 2:
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        batch, height, width, depth = x.shape
        x = x.view(batch, height // 2, 2, width // 2, 2, depth).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduce(self.norm(x))


class Swin(System):
    """Swin for classification; `features` gives the pyramid that dense systems use, `num_classes=0` pooled features.

    width: channels of the first stage. depths, heads: blocks and attention heads per stage. window: its side in tokens.
    patch: stride of the first stage. stochastic_depth: rate at which the last block is skipped in training.
    """

    answer = Classes

    def __init__(
        self,
        num_classes: int = 1000,
        width: int = 96,
        depths: list[int] = [2, 2, 6, 2],  # noqa: B006 - read only; a list so that JSON gives it back
        heads: list[int] = [3, 6, 12, 24],  # noqa: B006
        window: int = 7,
        patch: int = 4,
        stochastic_depth: float = 0.0,
        in_channels: int = 3,
        image_size: int = 224,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if len(depths) != len(heads):
            raise ValueError(f"heads: expected one for each of {len(depths)} depths, got {len(heads)}")
        if window < 2:
            raise ValueError(f"window: expected at least 2 tokens, got {window}")
        if image_size < patch:
            raise ValueError(f"image_size: expected at least the patch's {patch} pixels, got {image_size}")
        self.strides = [patch * 2**index for index in range(len(depths))]
        self.channels = [width * 2**index for index in range(len(depths))]
        self.patches = nn.Conv2d(in_channels, width, patch, patch)
        self.patches_norm = nn.LayerNorm(width)
        self.merges = nn.ModuleList([nn.Identity(), *(PatchMerging(inputs) for inputs in self.channels[:-1])])
        self.stages = nn.ModuleList()
        rates = iter([0.0, *drop_rates(sum(depths) - 1, stochastic_depth)])
        for depth, inputs, number in zip(depths, self.channels, heads, strict=True):
            shifts = [0 if block % 2 == 0 else window // 2 for block in range(depth)]
            self.stages.append(nn.Sequential(*(SwinBlock(inputs, number, window, s, next(rates)) for s in shifts)))
        self.norm = nn.LayerNorm(self.channels[-1])
        self.head = nn.Linear(self.channels[-1], num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """One map per stage, finest first, at `self.strides`, with `self.channels` channels."""
        side = self.strides[0]
        x = F.pad(self.normalize(image), (0, -image.shape[-1] % side, 0, -image.shape[-2] % side))
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.patches_norm(self.patches(x).permute(0, 2, 3, 1))
        maps = []
        for merge, stage in zip(self.merges, self.stages, strict=True):
            x = stage(merge(x))
            maps.append(x.permute(0, 3, 1, 2))
        return maps

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, or pooled features where `num_classes` is 0."""
        tokens = self.norm(self.features(image)[-1].permute(0, 2, 3, 1))
        return self.head(tokens.mean((1, 2)))

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)
