r"""A map cut into windows, as attention within them wants it, and put together again."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def to_windows(
    x: Float[Tensor, "b h w c"], window: int, fill: Float[Tensor, " c"] | None = None
) -> Float[Tensor, "n window window c"]:
    """Windows row by row, picture after picture, the last ones filled up with zeros or with `fill`."""
    rows, columns = -x.shape[1] % window, -x.shape[2] % window
    if fill is None:
        x = F.pad(x, (0, 0, 0, columns, 0, rows)) if rows or columns else x
    elif rows or columns:
        x = torch.cat([x, fill.expand(x.shape[0], x.shape[1], columns, -1)], 2)
        x = torch.cat([x, fill.expand(x.shape[0], rows, x.shape[2], -1)], 1)
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return x.transpose(2, 3).flatten(0, 2)


def from_windows(x: Float[Tensor, "n wh ww c"], height: int, width: int) -> Float[Tensor, "b height width c"]:
    """The inverse of `to_windows`."""
    across, down = -(-width // x.shape[2]), -(-height // x.shape[1])
    x = x.unflatten(0, (-1, down, across)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)[:, :height, :width]
