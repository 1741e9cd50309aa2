r"""Paint of objects and ground: flat, checker, stripes and noise in the object's own coordinates, or real photographs.

checker  parity of floor(x/p) + floor(y/p) + floor(z/p)
stripes  parity of floor(z/p)
noise    smooth threshold of a sum of products of sines, blotches about p wide
real     photographs of scikit-image, projected along the normal's largest component
marble   of ground and wall: a sum of sines in the world's coordinates, waves of 0.8 to 2 metres, nowhere flat
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from oculi.data.world.scenes import Scenes

MARBLE = ((2.1, 1.3, 1.7), (-1.5, 2.6, -2.2), (4.3, -2.9, 3.8), (-3.1, -5.0, 5.2))  # radians a metre


def object_paint(
    scenes: Scenes, body: Tensor, local: Float[Tensor, "3 rays"], normal: Float[Tensor, "3 rays"]
) -> Float[Tensor, "3 rays"]:
    """Colours at points in their objects' coordinates."""
    kind = scenes.texture.reshape(-1)[body]
    paint = scenes.paint.reshape(2, 3, -1)[..., body]
    period = scenes.period.reshape(-1)[body]
    u = local / period + 0.23
    cells = u.floor()
    checker = (cells[0] + cells[1] + cells[2]).remainder(2)
    stripes = (u[2] * 1.3).floor().remainder(2)
    waves = torch.sin(u * 4.1) + 0.6 * torch.sin(u * 7.3 + 1.0)
    rolled = torch.cos(torch.stack([u[1], u[2], u[0]]) * 3.3 + 0.5)
    noise = torch.sigmoid(4 * (waves[0] * rolled[0] + waves[1] * rolled[1] + waves[2] * rolled[2]))
    share = torch.where(kind == 1, checker, torch.where(kind == 2, stripes, torch.where(kind == 3, noise, 0.0)))
    colour = paint[0] * (1 - share) + paint[1] * share
    real = (kind == 4).nonzero()[:, 0]
    if len(real):
        colour[:, real] = _photograph(local[:, real], normal[:, real], period[real], body[real], scenes)
    return colour


def ground_paint(
    scenes: Scenes, point: Float[Tensor, "3 n pixels"], is_ground: Bool[Tensor, "n pixels"]
) -> Float[Tensor, "3 n pixels"]:
    """Colours of ground and wall."""
    odd = (point[0].floor() + point[1].floor()).remainder(2) > 0
    dark = odd & scenes.checker[:, None]
    ground = torch.where(dark, scenes.ground[1][..., None], scenes.ground[0][..., None])
    plain = torch.where(is_ground, ground, scenes.wall[..., None])
    if not bool(scenes.marbled.any()):
        return plain
    waves = torch.zeros_like(point[0])
    for number, (x, y, z) in enumerate(MARBLE):
        waves += torch.sin(x * point[0] + y * point[1] + z * point[2] + scenes.index[:, None] * (number + 1.3)) / (
            number + 2
        )
    return torch.where(scenes.marbled[:, None], plain * (0.45 + 0.8 * torch.sigmoid(3 * waves)), plain)


def _photograph(local: Tensor, normal: Tensor, period: Tensor, body: Tensor, scenes: Scenes) -> Tensor:
    pictures = photographs()
    side = normal.abs().argmax(0)
    first = torch.where(side == 0, local[1], local[0])
    second = torch.where(side == 2, local[1], local[2])
    extent = pictures.shape[-1]
    column, row = (
        ((value / (4 * period) + 0.5).remainder(1) * extent).long().clamp(0, extent - 1) for value in (first, second)
    )
    which = scenes.index[body // scenes.kind.shape[1]] * 5 + body % scenes.kind.shape[1]
    return pictures[which % len(pictures), :, row, column].T


@cache
def photographs() -> Float[Tensor, "pictures 3 128 128"]:
    """Real photographs that scikit-image ships, 128 x 128."""
    from skimage import data

    squares = []
    for name in ("brick", "grass", "gravel", "astronaut", "coffee", "chelsea"):
        picture = torch.from_numpy(getattr(data, name)().copy()).float() / 255
        picture = picture[..., None].expand(-1, -1, 3) if picture.ndim == 2 else picture[..., :3]
        side = min(picture.shape[:2])
        step = side // 128
        squares.append(picture[: 128 * step : step, : 128 * step : step].permute(2, 0, 1))
    return torch.stack(squares).contiguous()
