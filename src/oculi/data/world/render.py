r"""From scenes to pictures: analytic ray casting over all pixels of all scenes at once.

Each object is tried only on the pixels of the rectangle around its bounding ball's projection: a ragged list of
(object, pixel) pairs, one intersection each, and the nearest wins. Directions have z = 1 in the camera's frame, hence
the ray parameter is the depth. Colour = paint * (ambient + sum over lights of strength * max(0, n.l) * visible).

Source: Lambert, Photometria (1760); Whitted, CACM 23(6), 1980 (shadow rays).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oculi.data.world.scenes import Knobs, Scenes
from oculi.data.world.shapes import bounding_radius, dot, intersect, normal
from oculi.data.world.textures import ground_paint, object_paint

WALL, GROUND = -2, -1


@dataclass
class Rendered:
    """Pictures of N scenes. `slot`: which of the scene's objects a pixel shows, -1 the ground, -2 the wall."""

    image: Float[Tensor, "n 3 height width"]
    depth: Float[Tensor, "n height width"]
    normals: Float[Tensor, "n 3 height width"]
    slot: Int[Tensor, "n height width"]


def render(scenes: Scenes, size: int, knobs: Knobs, seed: int = 0) -> Rendered:
    """Pictures with depth along z (metres), normals in the camera's axes, and who is seen where."""
    n = len(scenes)
    direction = rays(scenes, size)
    depth, surface, normals = _background(scenes, direction)
    depth, owner = _nearest(scenes, direction, depth, size)
    flat = direction.reshape(3, -1)
    scene = torch.arange(n).repeat_interleave(size * size)
    point = (scenes.eye[:, :, None] + depth.reshape(n, -1) * direction.reshape(3, n, -1)).reshape(3, -1)
    slot = torch.where(owner >= 0, owner % scenes.kind.shape[1], surface)
    paint = ground_paint(scenes, point.reshape(3, n, -1), surface.reshape(n, -1) == GROUND).reshape(3, -1)
    hit = (owner >= 0).nonzero()[:, 0]
    body = owner[hit]
    local = to_local(scenes, body, point[:, hit])
    inner = normal(pick(scenes.kind, body), local, pick(scenes.size, body))
    normals[:, hit] = to_world(scenes, body, inner)
    paint[:, hit] = object_paint(scenes, body, local, inner)
    away = dot(normals, flat) > 0
    light = _light(scenes, point, torch.where(away, -normals, normals), scene, knobs.shadows)
    image = (paint * light).reshape(3, n, size, size).transpose(0, 1)
    view = scenes.view[:, :, :, None]
    normals = normals.reshape(3, n, -1)
    seen = torch.stack([dot(view[row], normals) for row in range(3)], 1).reshape(n, 3, size, size)
    image = _lens(image, scenes, knobs, seed)
    return Rendered(image, depth.reshape(n, size, size), seen, slot.reshape(n, size, size))


def rays(scenes: Scenes, size: int) -> Float[Tensor, "3 n height width"]:
    """Directions through the pixel centres, z = 1 in the camera's frame."""
    offset = (torch.arange(size) + 0.5 - size / 2) / size
    scaled = offset / scenes.focal[:, None]
    x, y = scaled[:, None, :], scaled[:, :, None]
    view = scenes.view[..., None, None]
    return torch.stack([view[0, axis] * x + view[1, axis] * y + view[2, axis] for axis in range(3)])


def pick(values: Tensor, body: Int[Tensor, " rays"]) -> Tensor:
    """Per-object values of the flat object numbers `scene * K + slot`."""
    return values.reshape(*values.shape[:-2], -1)[..., body]


def to_local(scenes: Scenes, body: Tensor, point: Float[Tensor, "3 rays"]) -> Float[Tensor, "3 rays"]:
    """World points in their objects' axes."""
    return _turn_in(scenes, body, point - pick(scenes.center, body))


def _turn_in(scenes: Scenes, body: Tensor, vector: Tensor) -> Tensor:
    axes = pick(scenes.axes, body)
    return torch.stack([dot(axes[:, b], vector) for b in range(3)])


def to_world(scenes: Scenes, body: Tensor, vector: Float[Tensor, "3 rays"]) -> Float[Tensor, "3 rays"]:
    """Directions in objects' axes, in the world's."""
    axes = pick(scenes.axes, body)
    return torch.stack([dot(axes[a], vector) for a in range(3)])


def _background(scenes: Scenes, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Depth of the ground or the wall, which of them it is, and its normal, per pixel."""
    n = len(scenes)
    d = direction.reshape(3, n, -1)
    down = torch.where(d[2] < -1e-6, -scenes.eye[2][:, None] / torch.where(d[2] < -1e-6, d[2], -1.0), float("inf"))
    facing, eye = scenes.wall_normal[..., None], scenes.eye[..., None]
    toward = facing[0] * d[0] + facing[1] * d[1]
    height = facing[0] * eye[0] + facing[1] * eye[1] - scenes.wall_distance[:, None]
    back = torch.where(toward < -1e-6, -height / torch.where(toward < -1e-6, toward, -1.0), float("inf"))
    is_ground = down <= back
    depth = torch.minimum(down, back).clamp_max(1e4)
    zero = torch.zeros_like(depth)
    normals = torch.stack(
        [
            torch.where(is_ground, zero, facing[0]),
            torch.where(is_ground, zero, facing[1]),
            torch.where(is_ground, 1.0, zero),
        ]
    )
    surface = torch.where(is_ground, GROUND, WALL)
    return depth.reshape(-1), surface.reshape(-1), normals.reshape(3, -1)


def _nearest(scenes: Scenes, direction: Tensor, depth: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The depth buffer with the objects in it, and the object (flat number) of every pixel, -1 for none."""
    body, pixel = _pairs(scenes, size)
    d = direction.reshape(3, -1)[:, pixel]
    eye = scenes.eye.repeat_interleave(scenes.kind.shape[1], 1)[:, body]
    axes, offset = pick(scenes.axes, body), eye - pick(scenes.center, body)
    origin = torch.stack([dot(axes[:, b], offset) for b in range(3)])
    local = torch.stack([dot(axes[:, b], d) for b in range(3)])
    t = intersect(pick(scenes.kind, body), origin, local, pick(scenes.size, body))
    met = (t < depth[pixel]).nonzero()[:, 0]
    t, body, pixel = t[met], body[met], pixel[met]
    depth = depth.scatter_reduce(0, pixel, t, "amin")
    front = (t == depth[pixel]).nonzero()[:, 0]
    owner = torch.full(depth.shape, -1, dtype=torch.int64)
    return depth, owner.scatter_reduce(0, pixel[front], body[front], "amax")


def _pairs(scenes: Scenes, size: int) -> tuple[Tensor, Tensor]:
    """All (object, pixel) pairs where the object's bounding ball may be seen; pixels are numbered over all scenes."""
    offset = scenes.center - scenes.eye[:, :, None]
    view = scenes.view[..., None]
    x, y, z = (dot(view[row], offset) for row in range(3))
    radius = bounding_radius(scenes.kind, scenes.size)
    shown = (scenes.exists & (z > radius + 0.05)).reshape(-1).nonzero()[:, 0]
    focal = (scenes.focal * size)[:, None]
    bounds = []
    for across in (x, y):
        room = (across * across + z * z - radius * radius).clamp_min(0).sqrt() * radius
        below = (z * z - radius * radius).clamp_min(1e-6)
        low = (focal * (across * z - room) / below + size / 2 - 0.5).floor().clamp(0, size)
        high = (focal * (across * z + room) / below + size / 2 + 0.5).ceil().clamp(0, size)
        bounds += [pick(low, shown).long(), pick(high, shown).long()]
    x0, x1, y0, y1 = bounds
    width, height = (x1 - x0).clamp_min(0), (y1 - y0).clamp_min(0)
    counts = width * height
    which = torch.repeat_interleave(torch.arange(len(shown)), counts)
    rank = torch.arange(len(which)) - (counts.cumsum(0) - counts)[which]
    row = torch.div(rank, width[which], rounding_mode="floor")
    column = rank - row * width[which]
    scene = shown // scenes.kind.shape[1]
    first = (scene * size + y0) * size + x0
    return shown[which], first[which] + row * size + column


def _light(scenes: Scenes, point: Tensor, normals: Tensor, scene: Tensor, shadows: bool) -> Float[Tensor, " pixels"]:
    n = len(scenes)
    light = scenes.ambient[:, None].expand(n, len(scene) // n).reshape(-1)
    for sun, strength in zip(scenes.sun, scenes.strength, strict=True):
        facing = dot(normals.reshape(3, n, -1), sun[:, :, None]).clamp_min(0).reshape(-1)
        if shadows:
            facing = facing * ~_shadowed(scenes, point + 2e-3 * normals, facing, sun)
        light = light + (facing.reshape(n, -1) * strength[:, None]).reshape(-1)
    return light


def _shadowed(scenes: Scenes, point: Tensor, facing: Tensor, sun: Tensor) -> Tensor:
    """Whether something stands between each point and the light; bounding balls sort out nearly all pairs."""
    n, most = scenes.kind.shape
    place = point.reshape(3, n, -1)
    radius = bounding_radius(scenes.kind, scenes.size)
    dark = torch.zeros_like(facing, dtype=torch.bool)
    lit = facing.reshape(n, -1) > 0
    for k in range(most):
        gap = scenes.center[:, :, k, None] - place
        along = dot(gap, sun[:, :, None])
        reach = radius[:, k, None]
        near = (along > -reach) & (dot(gap, gap) - along * along < reach * reach) & scenes.exists[:, k, None] & lit
        pixel = near.reshape(-1).nonzero()[:, 0]
        body = torch.div(pixel, place.shape[2], rounding_mode="floor") * most + k
        beam = sun[:, torch.div(body, most, rounding_mode="floor")]
        origin = to_local(scenes, body, point[:, pixel])
        t = intersect(pick(scenes.kind, body), origin, _turn_in(scenes, body, beam), pick(scenes.size, body))
        dark[pixel[torch.isfinite(t)]] = True
    return dark


def _lens(image: Tensor, scenes: Scenes, knobs: Knobs, seed: int) -> Float[Tensor, "n 3 height width"]:
    """Blur, noise, and the 256 levels of a file."""
    if knobs.blur > 0:
        image = _blurred(image, knobs.blur)
    if knobs.noise > 0:
        grains = [
            torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(seed * 1_000_003 + index + (1 << 61)))
            for index in scenes.index.tolist()
        ]
        image = image + knobs.noise * torch.stack(grains)
    return (image.clamp(0, 1) * 255).round() / 255


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with repeated borders, written as shifted sums."""
    reach = max(1, round(3 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    shares = (weights / weights.sum()).tolist()
    for axis in (2, 3):
        place = torch.arange(image.shape[axis])
        shifted = [
            image.index_select(axis, (place + shift).clamp(0, image.shape[axis] - 1)) * weight
            for shift, weight in zip(range(-reach, reach + 1), shares, strict=True)
        ]
        image = torch.stack(shifted).sum(0)
    return image
