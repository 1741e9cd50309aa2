r"""RoI pooling: a region snapped to whole cells of the map, cut into a grid of bins, the largest value of each bin.

    start = round(scale * x1), extent = max(round(scale * x2) - start + 1, 1)
    bin q = cells from start + floor(q extent / size) up to start + ceil((q + 1) extent / size), cut at the map

Rounding moves a region by up to half a cell and bins may share a cell: what RoI Align does away with. A bin outside the
map is 0. `looked_up_roi_pool` is the definition, bin by bin. `roi_pool` first takes the maxima over windows of 1, 2, 4, ...
cells both ways; the maximum of any bin is that of the four such windows in its corners, which may overlap.

Girshick: Fast R-CNN, 2015, arXiv:1504.08083. Bender, Farach-Colton: The LCA Problem Revisited, LATIN 2000 (windows).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def roi_pool(
    features: Float[Tensor, "b c h w"], boxes: Float[Tensor, "b p 4"], size: int, scale: float = 1.0
) -> Float[Tensor, "b p c size size"]:
    """Pool p boxes (x1 y1 x2 y2 in pixels) of each picture from a map of `scale` cells per pixel.

    >>> roi_pool(torch.arange(16.0).reshape(1, 1, 4, 4), torch.tensor([[[0.0, 0, 3, 3]]]), 2)[0, 0, 0]
    tensor([[ 5.,  7.],
            [13., 15.]])
    """
    batch, _, height, width = features.shape
    if not boxes.shape[1]:
        return features.new_zeros(batch, 0, features.shape[1], size, size)
    (x0, x1), (y0, y1) = (_bins(boxes, axis, size, scale, length) for axis, length in ((0, width), (1, height)))
    (across, wide), (down, tall) = _octaves(x1 - x0), _octaves(y1 - y0)
    windows = _windows(features, int(down.max()) + 1, int(across.max()) + 1)
    image = torch.arange(batch, device=boxes.device)[:, None, None, None]
    left, right = x0.clamp(0, width - 1), (x1 - wide).clamp(0, width - 1)
    top, bottom = y0.clamp(0, height - 1), (y1 - tall).clamp(0, height - 1)
    found = [
        windows[down[..., :, None], across[..., None, :], image, y[..., :, None], x[..., None, :]]
        for y in (top, bottom)
        for x in (left, right)
    ]
    filled = ((y1 > y0)[..., :, None] & (x1 > x0)[..., None, :])[..., None]
    largest = torch.maximum(torch.maximum(found[0], found[1]), torch.maximum(found[2], found[3]))
    return torch.where(filled, largest, 0.0).permute(0, 1, 4, 2, 3)


def looked_up_roi_pool(
    features: Float[Tensor, "b c h w"], boxes: Float[Tensor, "b p 4"], size: int, scale: float = 1.0
) -> Float[Tensor, "b p c size size"]:
    """`roi_pool` bin by bin, the readable reference."""
    (batch, channels, height, width), regions = features.shape, boxes.shape[1]
    (x0, x1), (y0, y1) = (_bins(boxes, axis, size, scale, length) for axis, length in ((0, width), (1, height)))
    out = features.new_zeros(batch, regions, channels, size, size)
    for b, p, i, j in torch.cartesian_prod(*map(torch.arange, (batch, regions, size, size))).tolist():
        cells = features[b, :, y0[b, p, i] : y1[b, p, i], x0[b, p, j] : x1[b, p, j]]
        if cells.numel():
            out[b, p, :, i, j] = cells.amax((1, 2))
    return out


def _bins(boxes: Tensor, axis: int, size: int, scale: float, length: int) -> tuple[Tensor, Tensor]:
    """First cells of the bins along one axis and those behind their last, each `batch x regions x size`."""
    if size < 1:
        raise ValueError(f"size: expected at least 1, got {size}")
    start, end = ((boxes[..., k] * scale + 0.5).floor().long() for k in (axis, axis + 2))
    extent = (end - start + 1).clamp_min(1)[..., None]
    place = torch.arange(size + 1, device=boxes.device)
    first = start[..., None] + torch.div(place[:-1] * extent, size, rounding_mode="floor")
    last = start[..., None] - torch.div(-place[1:] * extent, size, rounding_mode="floor")
    return first.clamp(0, length), last.clamp(0, length)


def _octaves(length: Int[Tensor, "*b"]) -> tuple[Int[Tensor, "*b"], Int[Tensor, "*b"]]:
    """The largest power of two not above each length, its exponent first."""
    exponent = torch.frexp(length.clamp_min(1).float()).exponent.long() - 1
    return exponent, 2**exponent


def _windows(features: Tensor, tall: int, wide: int) -> Float[Tensor, "tall wide b h w c"]:
    """Maxima over windows of 2^i by 2^j cells, each at its first cell; those over the map's edge hold what is inside."""
    rows = [features]
    for i in range(1, tall):
        shift = 2 ** (i - 1)
        below = F.pad(rows[-1], (0, 0, 0, shift), value=-torch.inf)[:, :, shift:]
        rows.append(torch.maximum(rows[-1], below))
    table = [torch.stack(rows)]
    for j in range(1, wide):
        shift = 2 ** (j - 1)
        table.append(torch.maximum(table[-1], F.pad(table[-1], (0, shift), value=-torch.inf)[..., shift:]))
    return torch.stack(table, 1).permute(0, 1, 2, 4, 5, 3)
