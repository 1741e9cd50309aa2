r"""Sparse optical flow: characteristic points of one picture are found again in the next (Kanade-Lucas-Tomasi).

A point is worth following where the smaller eigenvalue of its window's gradient matrix is large (`good_points`). It is
followed by Lucas-Kanade from the smallest picture of a pyramid to the largest: the gradient g of the first picture's
window is kept, and the displacement is bettered by

    d <- d - G^-1 sum g (I2(x + d) - I1(x)),   G = sum g g^T          sums over the window

I2 between pixels is bilinear, so the sum over I2 is itself a bilinear mixture of four sums, one for each corner of the
pixel's cell. Those are computed once for the cell that d has reached, and the iteration goes on with four numbers a point
until d leaves it: the result is that of resampling the window each time.

    points   n x 2, pixels (x, y), centres at +0.5
    flow     n x 2, pixels;  found: n, the window has texture and the point stays in the picture

Lucas, Kanade, IJCAI 1981. Shi, Tomasi: Good features to track, CVPR 1994. Bouguet: Pyramidal implementation of the
Lucas-Kanade feature tracker, 2000.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

CELLS = 8  # how often a point may leave its cell at a level
STEPS = 10  # iterations within a cell


@dataclass
class PointFlow:
    """Where points went: displacement, whether found, and the mean absolute difference of the two windows."""

    flow: Float[Tensor, "n 2"]
    found: Bool[Tensor, " n"]
    residual: Float[Tensor, " n"]


def scharr(image: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 2 h2 w2"]:
    """(d/dx, d/dy) by Scharr's 3 x 3 differences of what is inside; one pixel less on each side."""
    rows = (image[..., :-2, :] + image[..., 2:, :]) * (3 / 32) + image[..., 1:-1, :] * (10 / 32)
    columns = (image[..., :-2] + image[..., 2:]) * (3 / 32) + image[..., 1:-1] * (10 / 32)
    return torch.cat([rows[..., 2:] - rows[..., :-2], columns[..., 2:, :] - columns[..., :-2, :]], 1)


def good_points(
    image: Float[Tensor, "1 h w"], most: int = 500, quality: float = 0.01, apart: int = 7, window: int = 5
) -> Float[Tensor, "n 2"]:
    """The pixels of largest smaller eigenvalue that are the best within `apart` pixels, best first.

    quality: eigenvalue at least this share of the picture's best. A picture of one colour has none.
    """
    if image.ndim != 3 or image.shape[0] != 1 or not bool(torch.isfinite(image).all()):
        raise ValueError(f"image: expected 1 x H x W finite numbers, got {tuple(image.shape)}")
    gradient = scharr(F.pad(image[None], (1, 1, 1, 1), mode="replicate"))[0]
    terms = torch.stack([gradient[0].square(), gradient[0] * gradient[1], gradient[1].square()])
    a, b, c = F.avg_pool2d(terms, window, 1, window // 2, count_include_pad=False)
    least = (a + c) / 2 - (((a - c) / 2).square() + b.square()).sqrt()
    highest = F.max_pool2d(least[None], 2 * apart + 1, 1, apart)[0]
    chosen = (least == highest) & (least > max(quality * float(least.max()), 1e-8))
    y, x = chosen.nonzero().unbind(1)
    order = least[y, x].argsort(descending=True)[:most]
    return torch.stack([x[order], y[order]], 1).to(image) + 0.5


def track_points(
    image: Float[Tensor, "1 h w"],
    next_image: Float[Tensor, "1 h w"],
    points: Float[Tensor, "n 2"],
    window: int = 21,
    levels: int = 4,
    precision: float = 0.01,
    texture: float = 1e-5,
) -> PointFlow:
    """Each point's displacement to the next picture.

    window: odd side of the square that is taken to move as one. precision: pixels, a smaller step is the last.
    texture: smallest eigenvalue of the mean gradient matrix with which a point is found.
    """
    _check(image, next_image, points, window, levels)
    flow = torch.zeros_like(points)
    solved = None
    depth = _useful(levels, image, window)
    first, second = (_pyramid(p, depth) for p in (image, next_image))
    for scale in reversed(range(depth)):
        flow, solved = _follow(
            first[scale], second[scale], (points - 0.5) / 2**scale, flow / 2**scale, window // 2, precision
        )
        flow = flow * 2**scale
    assert solved is not None
    eigenvalue, residual = solved
    height, width = image.shape[-2:]
    end = points + flow
    inside = ((end >= 0) & (end <= end.new_tensor([width, height]))).all(1)
    return PointFlow(flow, inside & (eigenvalue > texture), residual)


def _check(image: Tensor, next_image: Tensor, points: Tensor, window: int, levels: int) -> None:
    if image.shape != next_image.shape or image.ndim != 3 or image.shape[0] != 1:
        raise ValueError(
            f"image, next_image: expected equal 1 x H x W, got {tuple(image.shape)} and {tuple(next_image.shape)}"
        )
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points: expected n x 2, got {tuple(points.shape)}")
    for name, value in (("image", image), ("next_image", next_image), ("points", points)):
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    if window < 3 or window % 2 == 0 or levels < 1:
        raise ValueError(f"window, levels: expected an odd window from 3 and a level, got {window} and {levels}")


def _useful(levels: int, image: Tensor, window: int) -> int:
    """No picture of the pyramid is smaller than the window."""
    while levels > 1 and min(image.shape[-2:]) // 2 ** (levels - 1) < window:
        levels -= 1
    return levels


def _pyramid(image: Float[Tensor, "1 h w"], levels: int) -> list[Float[Tensor, "1 h2 w2"]]:
    """Each picture is every second pixel of the one before, smoothed by 1 4 6 4 1: its pixel k is the other's 2 k."""
    pictures = [image]
    weights = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
    while len(pictures) < levels:
        height, width = pictures[-1].shape[1:]
        padded = F.pad(pictures[-1], (2, 2, 2, 2), mode="reflect")
        rows = torch.stack([w * padded[:, k : k + height : 2] for k, w in enumerate(weights)]).sum(0)
        pictures.append(torch.stack([w * rows[..., k : k + width : 2] for k, w in enumerate(weights)]).sum(0))
    return pictures


def _windows(
    image: Float[Tensor, "1 h w"], corner: Int[Tensor, "n 2"], side: int, margin: int
) -> Float[Tensor, "n side side"]:
    """Squares whose first pixel is `corner` (x, y), out of the picture with its edge repeated `margin` pixels further."""
    padded = F.pad(image[None], (margin,) * 4, mode="replicate")[0, 0]
    height, width = padded.shape
    x = (corner[:, 0] + margin).clamp(0, width - side)
    y = (corner[:, 1] + margin).clamp(0, height - side)
    return padded.unfold(0, side, 1).unfold(1, side, 1)[y, x]


def _mixed(patch: Float[Tensor, "n s t"], part: Float[Tensor, "n 2"]) -> Float[Tensor, "n s2 t2"]:
    """Bilinear: the patch moved by `part` of a pixel, one row and column fewer."""
    x, y = part[:, 0, None, None], part[:, 1, None, None]
    across = torch.lerp(patch[..., :-1], patch[..., 1:], x)
    return torch.lerp(across[:, :-1], across[:, 1:], y)


def _follow(
    first: Tensor,
    second: Tensor,
    start: Float[Tensor, "n 2"],
    flow: Float[Tensor, "n 2"],
    radius: int,
    precision: float,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One level: the bettered flow, and the smaller eigenvalue and the residual of each window."""
    side, margin = 2 * radius + 1, 2 * radius + 4
    base = start.floor()
    wide = _mixed(_windows(first, base.long() - radius - 1, side + 3, margin), start - base)
    gradient = scharr(wide[:, None]).flatten(2)  # n 2 window
    template = wide[:, 1:-1, 1:-1].flatten(1)
    matrix = gradient @ gradient.transpose(1, 2) / side**2
    a, b, c = matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 1]
    eigenvalue = (a + c) / 2 - (((a - c) / 2).square() + b.square()).sqrt()
    determinant = (a * c - b * b).clamp_min(1e-12)
    inverse = torch.stack([torch.stack([c, -b], 1), torch.stack([-b, a], 1)], 1) / determinant[:, None, None]
    # G^-1 g: what a difference of brightness at a pixel of the window says about d
    vote = inverse @ gradient / side**2 * (eigenvalue > 1e-8)[:, None, None]
    own = (vote @ template[..., None])[..., 0]
    residual = torch.zeros_like(eigenvalue)
    active = torch.arange(len(start), device=start.device)
    origin, place = start, start + flow
    for _ in range(CELLS):
        cell = place.floor()
        patch = _windows(second, cell.long() - radius, side + 1, margin)
        # the window's pixels at each of the cell's four corners
        corners = patch.unfold(1, side, 1).unfold(2, side, 1).reshape(-1, 4, side * side)
        place, settled = _within(place, cell, corners @ vote.transpose(1, 2), own, precision)
        flow = flow.index_copy(0, active, place - origin)
        mean = (_mixed(patch, (place - cell).clamp(0, 1)).flatten(1) - template).abs().mean(1)
        residual = residual.index_copy(0, active, mean)
        going = ~settled
        if not bool(going.any()):
            break
        active, origin, place, vote, own, template = (v[going] for v in (active, origin, place, vote, own, template))
    return flow, (eigenvalue, residual)


def _within(
    place: Float[Tensor, "n 2"],
    cell: Float[Tensor, "n 2"],
    sums: Float[Tensor, "n 4 2"],
    own: Float[Tensor, "n 2"],
    precision: float,
) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, " n"]]:
    """Iterate inside the cell; where it ended, and whether it came to rest there rather than left."""
    settled = torch.zeros(len(place), dtype=torch.bool, device=place.device)
    left = settled
    for _ in range(STEPS):
        part = (place - cell).clamp(0, 1)
        x, y = part.unbind(1)
        weight = torch.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], 1)
        step = own - (weight[..., None] * sums).sum(1)
        going = ~(settled | left)
        place = torch.where(going[:, None], place + step, place)
        settled = settled | (going & (step.square().sum(1) < precision**2))
        left = left | (going & ((place < cell) | (place > cell + 1)).any(1))
        if bool((settled | left).all()):
            break
    return place, settled
