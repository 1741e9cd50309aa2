r"""A rectified pair of cameras: disparity to depth and back, points in space, and what only one of the two can see.

    x_l = f X/Z + p_x,   x_r = f (X - T)/Z + p_x + o     =>    d = x_l - x_r,   Z = f T / (d + o)
    X = Z (x - p_x) / f,   Y = Z (y - p_y) / f

T is the baseline in metres from the left to the right camera, along x; f the focal length in pixels; o the principal
point of the right camera less the left's (`offset`, 0 for most rigs). A point in front of both has d + o > 0; other
disparities have no depth: it is given as 0 and marked invalid.

Source: Hartley and Zisserman, Multiple View Geometry (2004), section 11.12.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from oculi.geometry.camera import Camera


def depth_from_disparity(
    disparity: Float[Tensor, "*batch height width"], focal: float | Tensor, baseline: float, offset: float = 0.0
) -> tuple[Float[Tensor, "*batch height width"], Bool[Tensor, "*batch height width"]]:
    """Metres along z, 0 where invalid, and where it is valid. `focal` is one number or one per picture.

    >>> depth, valid = depth_from_disparity(torch.tensor([[25.0, 0.0]]), 500.0, 0.1)
    >>> depth.tolist(), valid.tolist()
    ([[2.0, 0.0]], [[True, False]])
    """
    scale = _scale(disparity, focal, baseline)
    seen = disparity + offset
    valid = (seen > 0) & torch.isfinite(seen)
    return torch.where(valid, scale / torch.where(valid, seen, 1.0), 0.0), valid


def disparity_from_depth(
    depth: Float[Tensor, "*batch height width"], focal: float | Tensor, baseline: float, offset: float = 0.0
) -> Float[Tensor, "*batch height width"]:
    """Pixels; 0 where the depth is not a positive number."""
    scale = _scale(depth, focal, baseline)
    valid = (depth > 0) & torch.isfinite(depth)
    return torch.where(valid, scale / torch.where(valid, depth, 1.0) - offset, 0.0)


def _scale(like: Tensor, focal: float | Tensor, baseline: float) -> Tensor:
    length = torch.as_tensor(focal, dtype=like.dtype, device=like.device)
    if not bool((length > 0).all()) or not bool(torch.isfinite(length).all()):
        raise ValueError(f"focal: expected positive pixels, got {length.tolist()}")
    if not 0 < baseline < float("inf"):
        raise ValueError(f"baseline: expected positive metres from the left to the right camera, got {baseline}")
    if length.ndim not in (0, like.ndim - 2):
        raise ValueError(f"focal: expected one number or one per picture, got shape {tuple(length.shape)}")
    return (length * baseline)[..., None, None] if length.ndim else length * baseline


def point_cloud(
    depth: Float[Tensor, "height width"],
    camera: Camera,
    valid: Bool[Tensor, "height width"] | None = None,
    colours: Float[Tensor, "channels height width"] | None = None,
) -> Float[Tensor, "points features"]:
    """World points (x, y, z) of one picture's valid pixels, row by row, their colours behind them where there are any.

    Without `valid`, pixels of positive, finite depth are.
    """
    if camera.K.ndim != 2 or tuple(depth.shape) != (camera.height, camera.width):
        expected = f"one camera of {tuple(depth.shape)} pixels"
        raise ValueError(
            f"camera: expected {expected}, got {tuple(camera.K.shape[:-2])} of {camera.height, camera.width}"
        )
    chosen = (depth > 0) & torch.isfinite(depth) if valid is None else valid
    origins, directions = camera.rays()
    picked = chosen.reshape(-1)
    points = origins[picked] + depth.reshape(-1)[picked, None] * directions[picked]
    return points if colours is None else torch.cat([points, colours.flatten(1).T[picked].to(points)], 1)


def seen_by_both(disparity: Float[Tensor, "*batch height width"], tolerance: float = 1.0) -> Tensor:
    """Which pixels of the left picture the right one shows too: inside it, and not behind something nearer.

    Each pixel is sent to its place in the right picture; the largest disparity that lands there is the nearest surface.
    """
    width = disparity.shape[-1]
    flat = disparity.reshape(-1, width)
    place = torch.arange(width, device=flat.device) - flat
    inside = (place >= -0.5) & (place <= width - 0.5) & torch.isfinite(flat)
    column = torch.where(inside, place, 0).round().long().clamp(0, width - 1)
    reached = torch.where(inside, flat, -torch.inf)
    nearest = torch.full_like(flat, -torch.inf).scatter_reduce(1, column, reached, "amax")
    return (inside & (flat >= nearest.gather(1, column) - tolerance)).reshape(disparity.shape)
