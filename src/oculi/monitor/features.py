r"""Plain statistics of images: brightness, contrast, sharpness, noise and histograms of hue, saturation and value.

They need no model, and tell a camera's or a lamp's change by name. Per image:

    brightness   mean of the value V = max(R, G, B)
    contrast     standard deviation of V
    sharpness    mean of |V(x+1) - V(x)| and |V(y+1) - V(y)|
    noise        mean absolute response to the mask [1 -2 1; -2 4 -2; 1 -2 1], which edges and ramps hardly move,
                 times sqrt(π/2) / 6: the standard deviation of white noise (Immerkær 1996)
    hue          share of the saturation near each of 12 hues, the first being red; what lies between two counts for both
                 by its nearness, so that no turn of the colour circle is too small to show
    saturation, value   share of the pixels in each of 4 and 8 equal bins
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

_HUES, _SATURATIONS, _VALUES = 12, 4, 8
STATISTICS = [
    *("brightness", "contrast", "sharpness", "noise"),
    *(f"hue {360 * i // _HUES} degrees" for i in range(_HUES)),
    *(f"saturation bin {i}" for i in range(_SATURATIONS)),
    *(f"value bin {i}" for i in range(_VALUES)),
]


def hsv(image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Hue as a fraction of the circle in [0, 1) (0 for grey), saturation and value in [0, 1]."""
    high, chroma = image.amax(1), image.amax(1) - image.amin(1)
    red, green, blue = image.unbind(1)
    safe = chroma.clamp_min(1e-12)
    from_green = torch.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    sextant = torch.where(high == red, (green - blue) / safe, from_green)
    hue = torch.where(chroma > 0, (sextant / 6) % 1.0, 0.0)
    return torch.stack([hue, chroma / high.clamp_min(1e-12), high], 1)


def image_statistics(image: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n statistics"]:
    """The numbers called STATISTICS of each image in [0, 1]."""
    if image.ndim != 4 or image.shape[1] not in (1, 3) or min(image.shape[2:]) < 3:
        raise ValueError(f"image: expected n x 1 or 3 x at least 3 x 3 pixels, got shape {tuple(image.shape)}")
    if not bool(torch.isfinite(image).all()):
        raise ValueError("image: it holds NaN or infinity")
    hue, saturation, value = hsv(image.float().expand(-1, 3, -1, -1)).unbind(1)
    steps = (value.diff(dim=2).abs().mean((1, 2)) + value.diff(dim=1).abs().mean((1, 2))) / 2
    columns = [
        torch.stack([value.mean((1, 2)), value.std((1, 2), correction=0), steps, _noise(value)], 1),
        _hue_shares(hue * _HUES, saturation),
        _shares(saturation * _SATURATIONS, _SATURATIONS),
        _shares(value * _VALUES, _VALUES),
    ]
    return torch.cat(columns, 1)


def _noise(value: Float[Tensor, "n h w"]) -> Float[Tensor, " n"]:
    mask = value.new_tensor([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    response = F.conv2d(value[:, None], mask[None, None]).abs().mean((1, 2, 3))
    return response * math.sqrt(math.pi / 2) / 6


def _hue_shares(position: Float[Tensor, "n h w"], weight: Float[Tensor, "n h w"]) -> Float[Tensor, "n hues"]:
    """Share of the weight at each hue, split between the two nearest; all zero where nothing has a colour."""
    below, over = position.floor(), position - position.floor()
    near = [(below, 1 - over), (below + 1, over)]
    lower, upper = (_sums((where % _HUES).flatten(1).long(), (weight * part).flatten(1), _HUES) for where, part in near)
    counts = lower + upper
    return counts / counts.sum(1, keepdim=True).clamp_min(1e-6)


def _shares(position: Float[Tensor, "n h w"], bins: int) -> Float[Tensor, "n bins"]:
    """Share of the pixels in each bin."""
    which = position.flatten(1).long().clamp(0, bins - 1)
    return _sums(which, torch.ones(which.shape, device=which.device), bins) / which.shape[1]


def _sums(which: Int[Tensor, "n pixels"], amount: Float[Tensor, "n pixels"], bins: int) -> Float[Tensor, "n bins"]:
    return amount.new_zeros(len(which), bins).scatter_add_(1, which, amount)
