r"""RoI Align: each bin is the average of bilinear samples at regular points, without quantisation.

    bin (p, q) = mean over s x s points (y, x) of  sum_ij  (1 - |y - i|)+ (1 - |x - j|)+  F[i, j]

A point up to one cell outside the map takes the border's value, one further out is zero. Both that rule and bilinear
weights are products of a row's and a column's part, so a bin is a matrix product, bins = Wy F Wx^T, with Wy and Wx of
`size x height` and `size x width`: `roi_align` computes that, `sampled_roi_align` looks each sample up (the readable
reference). `aligned` puts pixel centres at +0.5 (half a cell to the left); without it, as in the first releases, a
region is also at least one cell wide.

He, Gkioxari, Dollar, Girshick: Mask R-CNN, 2017, arXiv:1703.06870.
"""

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
    x, y = _points(rois, size, scale, samples, aligned)
    height, width = features.shape[-2:]
    rows, columns = _weights(y, height, size), _weights(x, width, size)
    image, channels = rois[:, 0].long(), features.shape[1]
    pooled, order = [features.new_zeros(0, size, channels * size)], image.argsort(stable=True)
    for index, mine in zip(image.unique().tolist(), order.split(image.unique(return_counts=True)[1].tolist())):
        across = features[index].flatten(0, 1) @ columns[mine].flatten(0, 1).T  # channels * height x rois * size
        across = across.reshape(channels, height, len(mine), size).permute(2, 1, 0, 3)
        pooled.append(rows[mine] @ across.flatten(2))
    bins = torch.cat(pooled).index_select(0, order.argsort())
    return bins.reshape(len(rois), size, channels, size).transpose(1, 2)


def sampled_roi_align(
    features: Float[Tensor, "b c h w"],
    rois: Float[Tensor, "n 5"],
    size: int,
    scale: float = 1.0,
    samples: int = 2,
    aligned: bool = True,
) -> Float[Tensor, "n c size size"]:
    """`roi_align` point by point: the reference, and the better one where the map is large and the regions are few."""
    x, y = _points(rois, size, scale, samples, aligned)
    height, width = features.shape[-2:]
    image = rois[:, 0].long()[:, None, None]
    flat = features.permute(0, 2, 3, 1)
    (y0, y1, fy, oky), (x0, x1, fx, okx) = _corners(y, height), _corners(x, width)
    value = sum(
        flat[image, r[:, :, None], c[:, None]] * (a[:, :, None] * b[:, None])[..., None]
        for r, a in ((y0, 1 - fy), (y1, fy))
        for c, b in ((x0, 1 - fx), (x1, fx))
    )
    value = value * (oky[:, :, None] & okx[:, None])[..., None]
    return value.reshape(len(rois), size, samples, size, samples, features.shape[1]).mean((2, 4)).permute(0, 3, 1, 2)


def _points(rois: Tensor, size: int, scale: float, samples: int, aligned: bool) -> tuple[Tensor, Tensor]:
    """Where the samples lie in the map's cells, across and down, each `rois x size * samples`."""
    if samples < 1 or size < 1:
        raise ValueError(f"size, samples: expected at least 1, got {size} and {samples}")
    low, high = (rois[:, 1:] * scale - 0.5 * aligned).split(2, 1)
    extent = high - low if aligned else (high - low).clamp_min(1)
    steps = (torch.arange(size * samples, device=rois.device) + 0.5) / (size * samples)
    x, y = (low[:, i, None] + extent[:, i, None] * steps for i in (0, 1))
    return x, y


def _corners(at: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The cells on both sides, how far it is to the second, and whether the point counts."""
    inside = (at >= -1) & (at <= length)
    at = at.clamp(0, length - 1)
    low = at.floor().long()
    return low, (low + 1).clamp_max(length - 1), at - low, inside


def _weights(at: Tensor, length: int, size: int) -> Float[Tensor, "n size length"]:
    """What each cell of a row (or column) gives to each bin."""
    inside = (at >= -1) & (at <= length)
    cells = torch.arange(length, device=at.device)
    near = (1 - (at.clamp(0, length - 1)[..., None] - cells).abs()).clamp_min(0) * inside[..., None]
    return near.unflatten(1, (size, at.shape[1] // size)).mean(2)
