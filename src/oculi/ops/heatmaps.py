r"""Keypoints of a region as heatmaps: the cell that a point falls in, and the point where a map is largest.

    cell   = floor((x - x1) / (x2 - x1) * m)               of m x m; a point on the far border belongs to the last cell
    peak   = argmax of the map at the region's own resolution, ceil(width) x ceil(height), by bicubic interpolation
    point  = x1 + (column + 0.5) * width / ceil(width)      regions count as at least one pixel wide and high

Bicubic interpolation is separable, maps at the picture's resolution are two matrix products for all regions at once.

He, Gkioxari, Dollar, Girshick: Mask R-CNN, 2017, arXiv:1703.06870. Keys: Cubic Convolution Interpolation, 1981.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SHARPNESS = -0.75  # of the cubic, as torch has it
MOST_CELLS = 1 << 26  # at once


def heatmap_cells(
    points: Float[Tensor, "n k 3"], boxes: Float[Tensor, "n 4"], cells: int
) -> tuple[Int[Tensor, "n k"], Bool[Tensor, "n k"]]:
    """The cell (row * cells + column) of each keypoint in its region, and whether it is labelled and inside.

    >>> heatmap_cells(torch.tensor([[[4.0, 1.0, 2.0]]]), torch.tensor([[0.0, 0.0, 4.0, 4.0]]), 8)
    (tensor([[23]]), tensor([[True]]))
    """
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    place = ((points[..., :2] - low) * (cells / (high - low))).floor().long()
    place = torch.where(points[..., :2] == high, cells - 1, place)
    valid = ((place >= 0) & (place < cells)).all(-1) & (points[..., 2] > 0)
    return (place[..., 1] * cells + place[..., 0]) * valid, valid


def heatmap_peaks(
    maps: Float[Tensor, "n k m m"], boxes: Float[Tensor, "n 4"], height: int, width: int
) -> Float[Tensor, "n k 2"]:
    """x, y in pixels of the largest value of each map over its box, in pictures of `height` x `width` that hold the boxes."""
    at_once = max(1, MOST_CELLS // (maps.shape[1] * height * width))
    if not torch.compiler.is_exporting() and maps.shape[0] > at_once:
        pairs = zip(maps.split(at_once), boxes.split(at_once), strict=True)
        return torch.cat([heatmap_peaks(some, own, height, width) for some, own in pairs])
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp_min(1)
    whole = sides.ceil()
    across, down = (_cubic(whole[:, axis], length, maps.shape[-1]) for axis, length in ((0, width), (1, height)))
    fine = down[:, None] @ maps @ across[:, None].transpose(2, 3)
    rows = torch.arange(height, device=maps.device)[:, None] < whole[:, 1, None, None]
    columns = torch.arange(width, device=maps.device) < whole[:, 0, None, None]
    fine = torch.where((rows & columns)[:, None], fine, -torch.inf)
    best = fine.flatten(2).argmax(-1)
    place = torch.stack([best % width, torch.div(best, width, rounding_mode="floor")], -1)
    return boxes[:, None, :2] + (place + 0.5) * (sides / whole)[:, None]


def _cubic(sizes: Float[Tensor, " n"], length: int, cells: int) -> Float[Tensor, "n length cells"]:
    """What each of `cells` gives to each pixel of a line of `sizes` pixels; what follows those is never looked at."""
    at = (torch.arange(length, device=sizes.device) + 0.5) * (cells / sizes[:, None]) - 0.5
    first = at.floor()
    taps = torch.arange(-1, 3, device=sizes.device)
    d = (at - first)[..., None] - taps
    near, far = d.abs(), SHARPNESS
    inner = ((far + 2) * near - (far + 3)) * near**2 + 1
    outer = ((near - 5) * near + 8) * near * far - 4 * far
    weight = torch.where(near <= 1, inner, outer)
    cell = (first[..., None] + taps).clamp(0, cells - 1)
    return ((cell[..., None] == torch.arange(cells, device=sizes.device)) * weight[..., None]).sum(-2)
