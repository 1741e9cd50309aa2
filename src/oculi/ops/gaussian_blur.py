r"""Separable Gaussian blur as products with a banded matrix, which a processor does ten times faster than a convolution.

    out = K image K^T        K[i, i + j] = exp(-j^2 / (2 sigma^2)) / sum,  |j| <= 4 sigma, mirrored at the edge

Away from the edge every row of K holds the same numbers: one small matrix, a block of lines times the lines they see,
multiplies all blocks in one batched product. What it multiplies by zero costs less than what matrix products gain over a
convolution of one channel. A strip of lines is filtered down and at once across, while the cache holds it. To double the
picture before is a matrix too, and K times it a smaller one than K.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

STRIP = 256  # lines


def gaussian_blur(
    image: Float[Tensor, "b c h w"], sigma: float, out: Float[Tensor, "b c h2 w2"] | None = None, double: bool = False
) -> Float[Tensor, "b c h2 w2"]:
    """Cut at 4 sigma (pixels), mirrored at the edge; the edge is repeated where the picture is smaller than that.

    out: where to write it, without gradient. double: blur the picture at twice its size, bilinear.
    """
    if not sigma > 0:
        raise ValueError(f"sigma: expected a positive number of pixels, got {sigma}")
    times = 2 if double else 1
    if out is None:
        out = image.new_empty(*image.shape[:2], *(times * side for side in image.shape[2:]))
    planes, blurred = image.flatten(0, 1), out.view(-1, *out.shape[2:])
    mirrored = _radius(sigma) < min(out.shape[2:])
    for index in range(len(planes)):
        for start in range(0, out.shape[2], STRIP):
            strip = blurred[index][start : start + STRIP]
            rows = strip.new_empty(len(strip), image.shape[3])
            _down(planes[index], times, start, sigma, mirrored, rows)
            _down(rows.T, times, 0, sigma, mirrored, strip.T)
    return out


def _radius(sigma: float) -> int:
    return max(1, round(4 * sigma))


def _down(
    image: Float[Tensor, "h w"], times: int, start: int, sigma: float, mirrored: bool, out: Float[Tensor, "lines w"]
) -> None:
    """Filter each column, and write the lines from `start` on to `out`."""
    radius, height, stop = _radius(sigma), times * len(image), start + len(out)
    block = 16 if radius < 24 else 48
    reach = radius + 2 * (times - 1)  # doubling looks at one more line
    first = max(start, start + -(-(reach - start) // block) * block)  # what comes before sees the edge
    blocks = (min(stop, height - reach) - first) // block
    edges = [(start, first), (first + blocks * block, stop)]
    if blocks < 4:  # not worth the calls
        edges = [(start, stop)]
    else:
        band, low, high = _rows(sigma, first, first + block, height, times, mirrored, image.dtype, image.device)
        step = block // times
        seen = image[low : high + (blocks - 1) * step].unfold(0, high - low, step)
        inner = out[first - start : first - start + blocks * block].unflatten(0, (blocks, block))
        _product(band.expand(blocks, -1, -1), seen.transpose(1, 2), inner)
    for one, end in edges:
        if one == end:
            continue
        rows, low, high = _rows(sigma, one, end, height, times, mirrored, image.dtype, image.device)
        _product(rows[None], image[None, low:high], out[None, one - start : end - start])


def _rows(
    sigma: float, one: int, end: int, height: int, times: int, mirrored: bool, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, "lines seen"], int, int]:
    """Rows of K from one line to another, and the first and last line of the picture that they see."""
    low, high = max(0, one - _radius(sigma)), min(height, end + _radius(sigma))
    if times == 1:
        return _rows_of(sigma, one - low, end - one, high - end, mirrored, dtype, device), low, high
    return _doubled_rows(sigma, low, one, end, high, height, mirrored, dtype, device)


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


@lru_cache(maxsize=128)
@torch.inference_mode(False)
def _doubled_rows(
    sigma: float, low: int, one: int, end: int, high: int, height: int, mirrored: bool, dtype: torch.dtype,
    device: torch.device,
) -> tuple[Float[Tensor, "lines seen"], int, int]:  # fmt: skip
    """The same of K times the doubling, of which the lines from `low` to `high` are seen."""
    rows = _rows_of(sigma, one - low, end - one, high - end, mirrored, torch.float64, device)
    first, last = max(0, (low - 1) // 2), min(height // 2, high // 2 + 1)
    middle = (torch.arange(low, high, device=device).double() - 0.5) / 2
    share = middle - middle.floor()
    near = torch.stack([middle.floor(), middle.floor() + 1], 1).long().clamp(0, height // 2 - 1) - first
    doubling = rows.new_zeros(high - low, last - first).scatter_add_(1, near, torch.stack([1 - share, share], 1))
    return (rows @ doubling).to(dtype), first, last


def _product(left: Float[Tensor, "n a b"], right: Float[Tensor, "n b c"], out: Float[Tensor, "n a c"]) -> None:
    """Write left @ right to `out`, which is a part of a larger tensor; by a copy where gradients are to flow."""
    if torch.is_grad_enabled() and right.requires_grad:
        out.copy_(left @ right)
    else:
        torch.bmm(left, right, out=out)
