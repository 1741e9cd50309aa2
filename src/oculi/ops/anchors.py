r"""Anchors: reference boxes of given sizes and aspect ratios (height / width) at every cell of a feature map."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def cell_anchors(sizes: list[float], ratios: list[float]) -> Float[Tensor, "anchors 4"]:
    """Boxes round the origin, ratio by ratio, rounded to whole pixels as the references do."""
    size, root = torch.tensor(sizes, dtype=torch.float32), torch.tensor(ratios, dtype=torch.float32).sqrt()
    width, height = ((1 / root)[:, None] * size).flatten(), (root[:, None] * size).flatten()
    return (torch.stack([-width, -height, width, height], 1) / 2).round()


def grid_anchors(cells: Float[Tensor, "anchors 4"], height: int, width: int, stride: int) -> Float[Tensor, "n 4"]:
    """`cells` shifted to every cell of a `height x width` map, row by row, n = height * width * anchors."""
    y, x = torch.meshgrid(
        torch.arange(height, device=cells.device) * stride,
        torch.arange(width, device=cells.device) * stride,
        indexing="ij",
    )
    shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (shifts + cells).reshape(-1, 4)
