r"""Separable Gaussian blur as products with a banded matrix, which a processor does ten times faster than a convolution.

    out = K_v image K_h^T        K[i, i + j] = exp(-j^2 / (2 sigma^2)) / sum,  |j| <= 4 sigma, mirrored at the edge

K is zero but for its band, and every row of it holds the same numbers: `BLOCK` lines of the picture at a time are the
product of one small matrix, BLOCK x (BLOCK + 2 radius), with the lines they see. What is multiplied by zero costs less
than what matrix products gain over a convolution of one channel.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

BLOCK = 48


def gaussian_blur(
    image: Float[Tensor, "b c h w"], sigma: float, out: Float[Tensor, "b c h w"] | None = None
) -> Float[Tensor, "b c h w"]:
    """Cut at 4 sigma (pixels), mirrored at the edge; the edge is repeated where the picture is smaller than that.

    out: where to write it, without gradient.
    """
    if not sigma > 0:
        raise ValueError(f"sigma: expected a positive number of pixels, got {sigma}")
    radius = max(1, round(4 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64, device=image.device)
    taps = torch.exp(-offsets.square() / (2 * sigma**2))
    taps = (taps / taps.sum()).to(image.dtype)
    out = torch.empty_like(image) if out is None else out
    return _filtered(image.flatten(0, 1), taps, out.view(-1, *out.shape[2:])).view(image.shape)


def _filtered(image: Float[Tensor, "n h w"], taps: Float[Tensor, " k"], out: Float[Tensor, "n h w"]) -> Tensor:
    radius = len(taps) // 2
    count, height, width = image.shape
    mode = "reflect" if radius < min(height, width) else "replicate"
    padded = F.pad(image, (radius, radius, radius, radius), mode=mode)
    band = F.pad(taps, (0, BLOCK)).repeat(BLOCK)[: BLOCK * (BLOCK + 2 * radius)].view(BLOCK, -1)
    band = band.expand(count, -1, -1)
    rows = image.new_empty(count, height, width + 2 * radius)
    for start in range(0, height, BLOCK):
        stop = min(height, start + BLOCK)
        n, seen = stop - start, padded[:, start : stop + 2 * radius]
        _product(band[:, :n, : n + 2 * radius], seen, rows[:, start:stop])
    band = band.transpose(1, 2)
    for start in range(0, width, BLOCK):
        stop = min(width, start + BLOCK)
        n, seen = stop - start, rows[..., start : stop + 2 * radius]
        _product(seen, band[:, : n + 2 * radius, :n], out[..., start:stop])
    return out


def _product(left: Float[Tensor, "n a b"], right: Float[Tensor, "n b c"], out: Float[Tensor, "n a c"]) -> None:
    """Write left @ right to `out`, which is a part of a larger tensor; by a copy where gradients are to flow."""
    if torch.is_grad_enabled() and (left.requires_grad or right.requires_grad):
        out.copy_(left @ right)
    else:
        torch.bmm(left, right, out=out)
