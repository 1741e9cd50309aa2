r"""Anchors: reference boxes of given sizes and aspect ratios (height / width) at every cell of a feature map.

An anchor answers for the object that it overlaps most if that IoU is high enough, for background if it is low enough,
and for nothing in between. `rescue` also gives each object the anchors that overlap it most, however little.

Ren, He, Girshick, Sun: Faster R-CNN, 2015, arXiv:1506.01497.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

BACKGROUND, BETWEEN = -1, -2


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Float[Tensor, "anchors 4"]:
    """Boxes round the origin, ratio by ratio, rounded to whole pixels as the references do.

    >>> cell_anchors([16], [1.0])
    tensor([[-8., -8.,  8.,  8.]])
    """
    if not (sizes and ratios and min(*sizes, *ratios) > 0):
        raise ValueError(f"sizes, ratios: expected positive numbers, got {sizes} and {ratios}")
    size, root = torch.tensor(sizes, dtype=torch.float32), torch.tensor(ratios, dtype=torch.float32).sqrt()
    width, height = ((1 / root)[:, None] * size).flatten(), (root[:, None] * size).flatten()
    return (torch.stack([-width, -height, width, height], 1) / 2).round()


def grid_anchors(cells: Float[Tensor, "anchors 4"], height: int, width: int, stride: int) -> Float[Tensor, "n 4"]:
    """`cells` shifted to every cell of a `height x width` map, row by row, n = height * width * anchors.

    >>> grid_anchors(torch.tensor([[-8.0, -8, 8, 8]]), 1, 2, stride=16)
    tensor([[-8., -8.,  8.,  8.],
            [ 8., -8., 24.,  8.]])
    """
    y, x = torch.meshgrid(
        torch.arange(height, device=cells.device) * stride,
        torch.arange(width, device=cells.device) * stride,
        indexing="ij",
    )
    shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (shifts + cells).reshape(-1, 4)


def match(
    overlaps: Float[Tensor, "*b objects n"], foreground: float, background: float, rescue: bool = False
) -> Int[Tensor, "*b n"]:
    """The object that each of n boxes answers for, BACKGROUND or BETWEEN. Negative overlaps mark absent objects."""
    if not 0 < background <= foreground:
        raise ValueError(f"background: expected above 0 and at most foreground, got {background} and {foreground}")
    best, index = overlaps.max(-2)
    unclear = torch.where(best < background, BACKGROUND, BETWEEN)
    matched = torch.where(best >= foreground, index, unclear)
    if rescue:
        most = overlaps.amax(-1, keepdim=True)
        matched = torch.where(((overlaps == most) & (most > 0)).any(-2), index, matched)
    return matched
