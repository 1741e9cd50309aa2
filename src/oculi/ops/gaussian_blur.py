r"""Separable Gaussian blur as products with a banded matrix, which a processor does ten times faster than a convolution.

    out = K image K^T        K[i, i + j] = exp(-j^2 / (2 sigma^2)) / sum,  |j| <= 4 sigma, mirrored at the edge

Away from the edge every row of K holds the same numbers: one small matrix, a block of lines times the lines they see,
multiplies all blocks in one batched product. What it multiplies by zero costs less than what matrix products gain over a
convolution of one channel. A strip of lines is filtered down and at once across, while the cache holds it.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

STRIP = 256  # lines


def gaussian_blur(
    image: Float[Tensor, "b c h w"], sigma: float, out: Float[Tensor, "b c h w"] | None = None
) -> Float[Tensor, "b c h w"]:
    """Cut at 4 sigma (pixels), mirrored at the edge; the edge is repeated where the picture is smaller than that.

    out: where to write it, without gradient.
    """
    if not sigma > 0:
        raise ValueError(f"sigma: expected a positive number of pixels, got {sigma}")
    out = torch.empty_like(image) if out is None else out
    planes, blurred = image.flatten(0, 1), out.view(-1, *out.shape[2:])
    mirrored = _radius(sigma) < min(image.shape[2:])
    for index in range(len(planes)):
        for start in range(0, image.shape[2], STRIP):
            strip = blurred[index][start : start + STRIP]
            rows = torch.empty_like(strip)
            _down(planes[index], start, sigma, mirrored, rows)
            _down(rows.T, 0, sigma, mirrored, strip.T)
    return out


def _radius(sigma: float) -> int:
    return max(1, round(4 * sigma))


def _down(image: Float[Tensor, "h w"], start: int, sigma: float, mirrored: bool, out: Float[Tensor, "lines w"]) -> None:
    """Filter each column, and write the lines from `start` on to `out`."""
    radius, height, stop = _radius(sigma), len(image), start + len(out)
    block = 16 if radius < 24 else 48
    first = max(start, start + -(-(radius - start) // block) * block)  # what comes before sees the edge
    blocks = (min(stop, height - radius) - first) // block
    edges = [(start, first), (first + blocks * block, stop)]
    if blocks < 4:  # not worth the calls
        edges = [(start, stop)]
    else:
        band = _rows_of(sigma, radius, block, radius, mirrored, image.dtype, image.device)
        seen = image[first - radius : first + blocks * block + radius].unfold(0, block + 2 * radius, block)
        inner = out[first - start : first - start + blocks * block].unflatten(0, (blocks, block))
        _product(band.expand(blocks, -1, -1), seen.transpose(1, 2), inner)
    for one, end in edges:
        if one == end:
            continue
        low, high = max(0, one - radius), min(height, end + radius)
        rows = _rows_of(sigma, one - low, end - one, high - end, mirrored, image.dtype, image.device)
        _product(rows[None], image[None, low:high], out[None, one - start : end - start])


@lru_cache(maxsize=128)
@torch.inference_mode(False)  # kept for callers that want gradients too
def _rows_of(
    sigma: float, before: int, lines: int, after: int, mirrored: bool, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "lines seen"]:
    """Rows of K for some lines, the lines there are within the radius before and after them being the columns."""
    radius, seen = _radius(sigma), before + lines + after
    steps = torch.arange(-radius, radius + 1, device=device)
    taps = torch.exp(-steps.double().square() / (2 * sigma**2))
    at = torch.arange(before, before + lines, device=device)[:, None] + steps
    if mirrored:
        at = seen - 1 - (seen - 1 - at.abs()).abs()
    rows = torch.zeros(lines, seen, dtype=torch.float64, device=device)
    return rows.scatter_add_(1, at.clamp(0, seen - 1), (taps / taps.sum()).expand(lines, -1)).to(dtype)


def _product(left: Float[Tensor, "n a b"], right: Float[Tensor, "n b c"], out: Float[Tensor, "n a c"]) -> None:
    """Write left @ right to `out`, which is a part of a larger tensor; by a copy where gradients are to flow."""
    if torch.is_grad_enabled() and right.requires_grad:
        out.copy_(left @ right)
    else:
        torch.bmm(left, right, out=out)
