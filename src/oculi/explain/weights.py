r"""Pictures of a network's filters, and how smooth they are.

    total variation of a filter   mean |w(x + 1) - w(x)| over both directions, over its standard deviation

Filters of a well-trained first layer are smooth (edges, colours); noise that looks like the initialisation means too
little training or too little regularisation. White noise has a total variation of 2 / sqrt(pi) = 1.13.

Zeiler, Fergus: Visualizing and Understanding Convolutional Networks, 2013, arXiv:1311.2901.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from oculi.catalogue import nearest
from oculi.predictions import to_pil

NOISE = 2 / math.sqrt(math.pi)


def filters_of(system: nn.Module, layer: str = "") -> Float[Tensor, "filters channels height width"]:
    """The weights of a 2D convolution by its dotted name, the first one's where empty."""
    known = {name: m for name, m in system.named_modules() if isinstance(m, nn.Conv2d)}
    if not known:
        raise ValueError(f"system: {type(system).__name__} has no convolution")
    if layer and layer not in known:
        raise ValueError(f"layer: {type(system).__name__} has no convolution {layer}{nearest(layer, known)}")
    return known[layer or next(iter(known))].weight.detach()


def total_variation(filters: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Of each filter; does not change when it is scaled or shifted. Raises ValueError for filters of one pixel."""
    if max(filters.shape[-2:]) < 2:
        raise ValueError("filters: expected at least two pixels along a side, got 1x1")
    down, right = filters.diff(dim=-2).abs().flatten(1), filters.diff(dim=-1).abs().flatten(1)
    spread = filters.flatten(1).std(1, correction=0)
    return torch.cat([down, right], 1).mean(1) / spread.clamp_min(torch.finfo(filters.dtype).tiny)


def noisy_filters(filters: Float[Tensor, "n c h w"], level: float = 0.9) -> bool:
    """Whether the filters, on average, are as rough as noise: a total variation above `level` of white noise's."""
    return float(total_variation(filters).mean()) > level * NOISE


def normalized_filters(filters: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Each filter by itself from its least (0) to its largest value (1); a constant one is 0.5."""
    flat = filters.flatten(1)
    low, high = flat.amin(1)[:, None, None, None], flat.amax(1)[:, None, None, None]
    return torch.where(high > low, (filters - low) / (high - low).clamp_min(1e-30), 0.5)


def grid(images: Float[Tensor, "n c h w"], columns: int = 0, gap: int = 1) -> Float[Tensor, "c rows columns"]:
    """Pictures side by side, row by row, white lines between them."""
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = images.new_ones(rows * columns, channels, height + gap, width + gap)
    canvas[:count, :, :height, :width] = images
    sheet = canvas.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    return sheet[:, : rows * (height + gap) - gap, : columns * (width + gap) - gap]


def weight_picture(system: nn.Module, layer: str = "", at_least: int = 256) -> Image.Image:
    """The filters of a convolution, in colour where they have three channels, else one grey picture per channel."""
    filters = normalized_filters(filters_of(system, layer).cpu().float())
    if filters.shape[1] != 3:
        sheet = grid(filters.flatten(0, 1)[:, None], columns=filters.shape[1] if filters.shape[1] > 1 else 0)
    else:
        sheet = grid(filters)
    return to_pil(sheet, max(1, at_least // max(sheet.shape[-2:])))
