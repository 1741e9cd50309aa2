r"""From a region's small mask back to the picture: bilinear, without a loop over regions.

    pasted = Wy M Wx^T          W[pixel, cell] = (1 - |u(pixel) - cell|)+ inside the region, 0 outside
    u(x) = (x + 0.5 - x1) / (x2 - x1) * m - 0.5              m x m cells, taken at the pixels' centres

`whole` is what Detectron and torchvision do: the mask gets a border of zeros, the region grows by as much, is cut down
to whole pixels, and its last pixel counts as inside.

He, Gkioxari, Dollar, Girshick: Mask R-CNN, 2017, arXiv:1703.06870.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def paste(
    masks: Float[Tensor, "n m m"], boxes: Float[Tensor, "n 4"], height: int, width: int, whole: bool = False
) -> Float[Tensor, "n height width"]:
    """Each mask stretched over its box (x1 y1 x2 y2 in pixels) in a picture of zeros.

    >>> paste(torch.ones(1, 2, 2), torch.tensor([[1.0, 0.0, 3.0, 1.0]]), 2, 4)
    tensor([[[0., 1., 1., 0.],
             [0., 0., 0., 0.]]])
    """
    if masks.ndim != 3 or masks.shape[1] != masks.shape[2] or not masks.shape[1]:
        raise ValueError(f"masks: expected n x m x m, got {tuple(masks.shape)}")
    if whole:
        cells = masks.shape[1] + 2
        middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * (cells / masks.shape[1])
        low, high = (middle - half).trunc(), (middle + half).trunc()
        masks, low, extent = F.pad(masks, (1, 1, 1, 1)), low, (high - low + 1).clamp_min(1)
    else:
        low, extent = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    across, down = (_weights(low[:, k], extent[:, k], n, masks.shape[1]) for k, n in ((0, width), (1, height)))
    return down @ masks @ across.transpose(1, 2)


def _weights(low: Tensor, extent: Tensor, length: int, cells: int) -> Float[Tensor, "n length cells"]:
    """What each cell gives to each pixel of a row (or column)."""
    offset = torch.arange(length, device=low.device) + 0.5 - low[:, None]
    inside = (offset > 0) & (offset < extent[:, None])
    at = (offset * cells / extent[:, None].clamp_min(1e-6) - 0.5).clamp(0, cells - 1)
    near = 1 - (at[..., None] - torch.arange(cells, device=low.device)).abs()
    return near.clamp_min(0) * inside[..., None]
