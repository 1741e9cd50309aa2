r"""Plain statistics of images: brightness, contrast, sharpness, noise and histograms of hue, saturation and value.

They need no model, and tell a camera's or a lamp's change by name. Per image:

    brightness   mean of the value V = max(R, G, B)
    contrast     standard deviation of V
    sharpness    mean of |V(x+1) - V(x)| and |V(y+1) - V(y)|
    noise        mean absolute response to the mask [1 -2 1; -2 4 -2; 1 -2 1], which edges and ramps hardly move,
                 times sqrt(π/2) / 6: the standard deviation of white noise (Immerkær 1996)
    hue          share of the saturation in each of 8 sectors of the colour circle, the first centred on red
    saturation, value   share of the pixels in each of 4 and 8 equal bins
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

_HUES, _SATURATIONS, _VALUES = 8, 4, 8
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
        _shares((hue * _HUES + 0.5) % _HUES, _HUES, saturation),
        _shares(saturation * _SATURATIONS, _SATURATIONS),
        _shares(value * _VALUES, _VALUES),
    ]
    return torch.cat(columns, 1)


def _noise(value: Float[Tensor, "n h w"]) -> Float[Tensor, " n"]:
    mask = value.new_tensor([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    response = F.conv2d(value[:, None], mask[None, None]).abs().mean((1, 2, 3))
    return response * math.sqrt(math.pi / 2) / 6


def _shares(position: Float[Tensor, "n h w"], bins: int, weight: Tensor | None = None) -> Float[Tensor, "n bins"]:
    """Share of each bin per image, of the pixels or of their weight; all zero where there is no weight."""
    which = position.flatten(1).long().clamp(0, bins - 1)
    amount = torch.ones(which.shape, device=which.device) if weight is None else weight.flatten(1)
    counts = torch.zeros(len(which), bins, device=which.device).scatter_add_(1, which, amount)
    return counts / counts.sum(1, keepdim=True).clamp_min(1e-6)
