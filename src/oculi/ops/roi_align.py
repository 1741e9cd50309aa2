r"""RoI Align: each bin is the average of bilinear samples at regular points, without quantisation.

    bin (p, q) = mean over s x s points (y, x) of  sum_ij  (1 - |y - i|)+ (1 - |x - j|)+  F[i, j]

A point up to one cell outside the map takes the border's value, one further out is zero. Both that rule and bilinear
weights are products of a row's and a column's part, so a bin is a matrix product, bins = Wy F Wx^T, with Wy and Wx of
`size x height` and `size x width`: `roi_align` computes that where maps are small, and looks each sample up where they
are large (`sampled_roi_align`, the readable reference). `aligned` puts pixel centres at +0.5 (half a cell to the left);
without it, as in the first releases, a region is also at least one cell wide.

He, Gkioxari, Dollar, Girshick: Mask R-CNN, 2017, arXiv:1703.06870.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

LARGEST_PRODUCT = 64 * 64  # cells of a map for which matrix products are faster than looking up


def roi_align(
    features: Float[Tensor, "b c h w"],
    boxes: Float[Tensor, "b p 4"],
    size: int,
    scale: float = 1.0,
    samples: int = 2,
    aligned: bool = True,
) -> Float[Tensor, "b p c size size"]:
    """Pool p boxes (x1 y1 x2 y2 in pixels) of each picture from a map of `scale` cells per pixel, samples^2 points a bin."""
    (batch, channels, height, width), regions = features.shape, boxes.shape[1]
    if height * width > LARGEST_PRODUCT:
        return sampled_roi_align(features, boxes, size, scale, samples, aligned)
    x, y = _points(boxes, size, scale, samples, aligned)
    down = _weights(y, height, size).flatten(1, 2) @ features.transpose(1, 2).flatten(2)  # b, p * size, c * w
    across = _weights(x, width, size).transpose(2, 3)
    bins = down.reshape(batch, regions, size * channels, width) @ across
    return bins.reshape(batch, regions, size, channels, size).transpose(2, 3)


def sampled_roi_align(
    features: Float[Tensor, "b c h w"],
    boxes: Float[Tensor, "b p 4"],
    size: int,
    scale: float = 1.0,
    samples: int = 2,
    aligned: bool = True,
) -> Float[Tensor, "b p c size size"]:
    """`roi_align` point by point."""
    x, y = _points(boxes, size, scale, samples, aligned)
    (batch, channels, height, width), regions = features.shape, boxes.shape[1]
    image = torch.arange(batch, device=boxes.device)[:, None, None, None]
    flat = features.permute(0, 2, 3, 1)
    (y0, y1, fy, oky), (x0, x1, fx, okx) = _corners(y, height), _corners(x, width)
    value = sum(
        flat[image, r[..., :, None], c[..., None, :]] * (a[..., :, None] * b[..., None, :])[..., None]
        for r, a in ((y0, 1 - fy), (y1, fy))
        for c, b in ((x0, 1 - fx), (x1, fx))
    )
    value = value * (oky[..., :, None] & okx[..., None, :])[..., None]
    bins = value.reshape(batch, regions, size, samples, size, samples, channels).mean((3, 5))
    return bins.permute(0, 1, 4, 2, 3)


def _points(boxes: Tensor, size: int, scale: float, samples: int, aligned: bool) -> tuple[Tensor, Tensor]:
    """Where the samples lie in the map's cells, across and down, each `batch x regions x size * samples`."""
    if samples < 1 or size < 1:
        raise ValueError(f"size, samples: expected at least 1, got {size} and {samples}")
    low, high = (boxes * scale - 0.5 * aligned).split(2, -1)
    extent = high - low if aligned else (high - low).clamp_min(1)
    steps = (torch.arange(size * samples, device=boxes.device) + 0.5) / (size * samples)
    x, y = (low[..., i, None] + extent[..., i, None] * steps for i in (0, 1))
    return x, y


def _corners(at: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The cells on both sides, how far it is to the second, and whether the point counts."""
    inside = (at >= -1) & (at <= length)
    at = at.clamp(0, length - 1)
    low = at.floor().long()
    return low, (low + 1).clamp_max(length - 1), at - low, inside


def _weights(at: Tensor, length: int, size: int) -> Float[Tensor, "b n size length"]:
    """What each cell of a row (or column) gives to each bin."""
    inside = (at >= -1) & (at <= length)
    cells = torch.arange(length, device=at.device)
    near = (1 - (at.clamp(0, length - 1)[..., None] - cells).abs()).clamp_min(0) * inside[..., None]
    return near.unflatten(2, (size, at.shape[2] // size)).mean(3)
