r"""RoI Align: each bin is the average of bilinear samples at regular points, without quantisation. He 2017, 1703.06870."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def roi_align(
    features: Float[Tensor, "b c h w"],
    rois: Float[Tensor, "n 5"],
    size: int,
    scale: float = 1.0,
    samples: int = 2,
    aligned: bool = True,
) -> Float[Tensor, "n c size size"]:
    """Pool rois (image index, x1 y1 x2 y2 in pixels) from a map of `scale` cells per pixel, samples^2 points a bin."""
    if samples < 1:
        raise ValueError(f"samples: expected at least 1, got {samples}")
    height, width = features.shape[-2:]
    low, high = (rois[:, 1:] * scale - 0.5 * aligned).split(2, 1)
    extent = high - low if aligned else (high - low).clamp_min(1)
    steps = (torch.arange(size * samples, device=rois.device) + 0.5) / (size * samples)
    x, y = (low[:, i, None] + extent[:, i, None] * steps for i in (0, 1))
    image = rois[:, 0].long()[:, None, None]
    flat = features.permute(0, 2, 3, 1)
    (y0, y1, fy, oky), (x0, x1, fx, okx) = _corners(y, height), _corners(x, width)
    rows = [(y0, 1 - fy), (y1, fy)]
    columns = [(x0, 1 - fx), (x1, fx)]
    value = sum(
        flat[image, r[:, :, None], c[:, None]] * (a[:, :, None] * b[:, None])[..., None]
        for r, a in rows
        for c, b in columns
    )
    value = value * (oky[:, :, None] & okx[:, None])[..., None]
    return value.reshape(len(rois), size, samples, size, samples, -1).mean((2, 4)).permute(0, 3, 1, 2)


def _corners(at: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inside = (at >= -1) & (at <= length)
    at = at.clamp(0, length - 1)
    low = at.floor().long()
    return low, (low + 1).clamp_max(length - 1), at - low, inside
