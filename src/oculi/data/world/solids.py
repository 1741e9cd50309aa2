r"""The World's objects as solids, in a cube of their own: which voxels they fill, and points on their surfaces.

The cube has the camera's axes (x right, y down, z forward), its middle is that of the tight box around the object in
those axes, its half side the largest of that box's, so that a coordinate of 1 is as far as the object goes.

    sphere     uniform height, golden angle             box       a side by its area, uniform on it
    cylinder   mantle or cap by area                    cone      mantle (radius by sqrt) or base by area
    torus      (R v + r sin v) / (2 pi R) uniform, by fixed-point iteration
"""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from oculi.data.world.scenes import Scenes
from oculi.data.world.shapes import SHAPES, dot, extreme, inside

VOXELS, POINTS = 6, 1024  # along each side of the cube; on each surface


def cube(scenes: Scenes) -> tuple[Float[Tensor, "3 n k"], Float[Tensor, "n k"]]:
    """The middle of each object's cube as seen from the object's centre, in the camera's axes, and half its side, metres."""
    reach = []
    for sign in (1, -1):
        rows = []
        for axis in scenes.view:
            direction = (sign * axis)[..., None].expand_as(scenes.center)
            local = torch.stack([dot(scenes.axes[:, b], direction) for b in range(3)])
            rows.append(dot(local, extreme(scenes.kind, local, scenes.size)))
        reach.append(torch.stack(rows))
    return (reach[0] - reach[1]) / 2, ((reach[0] + reach[1]) / 2).amax(0)


def occupancy(scenes: Scenes) -> Bool[Tensor, "n k depth height width"]:
    """Whether the middle of each voxel is in the object."""
    at = (torch.arange(VOXELS) + 0.5) * 2 / VOXELS - 1
    z, y, x = torch.meshgrid(at, at, at, indexing="ij")
    middle, half = cube(scenes)
    seen = middle[..., None] + half[..., None] * torch.stack([x, y, z]).reshape(3, 1, 1, -1)
    local = _between(scenes, seen)
    kind = scenes.kind[..., None].expand(local.shape[1:])
    size = scenes.size[..., None].expand_as(local)
    filled = inside(kind.flatten(), local.flatten(1), size.flatten(1))
    return filled.reshape(*scenes.kind.shape, VOXELS, VOXELS, VOXELS)


def surface(scenes: Scenes) -> Float[Tensor, "n k points 3"]:
    """Points spread evenly over each object's surface, in its cube's coordinates."""
    local = on_surface(scenes.size)
    chosen = torch.gather(local, 0, scenes.kind[None, None, ..., None].expand(1, *local.shape[1:]))[0]
    world = torch.stack([dot(scenes.axes[a][..., None], chosen) for a in range(3)])
    seen = torch.stack([dot(axis[..., None, None], world) for axis in scenes.view])
    middle, half = cube(scenes)
    return ((seen - middle[..., None]) / half[..., None]).permute(1, 2, 3, 0).contiguous()


def on_surface(size: Float[Tensor, "3 n k"]) -> Float[Tensor, "shapes 3 n k points"]:
    """The same points on each kind of solid of these sizes, in its own axes."""
    u = ((torch.arange(POINTS) + 0.5) / POINTS).expand(*size.shape[1:], -1)
    v = (torch.arange(POINTS) * 0.6180339887 % 1).expand(*size.shape[1:], -1)
    turn = 2 * math.pi * v
    cos, sin = turn.cos(), turn.sin()
    a, b, c = size[..., None]
    level = 1 - 2 * u
    flat = (1 - level**2).sqrt()
    sphere = torch.stack([a * flat * cos, a * flat * sin, a * level])
    mantle, cap = 4 * math.pi * a * c, math.pi * a * a
    part, rest = _pick(u, torch.stack([mantle, cap, cap]))
    radius, height = a * rest.sqrt(), torch.where(part == 1, c, -c)
    cylinder = torch.where(
        part == 0,
        torch.stack([a * cos, a * sin, c * (2 * rest - 1)]),
        torch.stack([radius * cos, radius * sin, height]),
    )
    slant = (a * a + 4 * c * c).sqrt()
    part, rest = _pick(u, torch.stack([math.pi * a * slant, cap]))
    share = rest.sqrt()
    cone = torch.stack([a * share * cos, a * share * sin, torch.where(part == 0, c * (1 - 2 * share), -c)])
    tube = 2 * math.pi * u
    for _ in range(20):
        tube = 2 * math.pi * u - b / a * tube.sin()
    ring = a + b * tube.cos()
    torus = torch.stack([ring * cos, ring * sin, b * tube.sin()])
    return torch.stack([sphere, _box(u, v, size[..., None]), cylinder, cone, torus][: len(SHAPES)])


def _box(u: Tensor, v: Tensor, size: Tensor) -> Tensor:
    a, b, c = size
    part, rest = _pick(u, torch.stack([b * c, b * c, a * c, a * c, a * b, a * b]))
    one, two = 2 * rest - 1, 2 * v - 1
    sign = torch.where(part % 2 == 0, 1.0, -1.0)
    axis = torch.div(part, 2, rounding_mode="floor")
    unit = torch.stack([
        torch.where(axis == 0, sign, one),
        torch.where(axis == 1, sign, torch.where(axis == 0, one, two)),
        torch.where(axis == 2, sign, two),
    ])  # fmt: skip
    return unit * size


def _pick(u: Tensor, areas: Float[Tensor, "parts *shape 1"]) -> tuple[Tensor, Tensor]:
    """Which part each u in [0, 1) falls in, parts being as long as their areas, and how far along it, in [0, 1]."""
    ends = torch.stack(list(accumulate(areas)))  # one after the other: the same bits in every batch
    ends = ends / ends[-1]
    part = (u >= ends[:-1]).sum(0)
    starts = torch.cat([torch.zeros_like(ends[:1]), ends])
    low, high = (torch.gather(starts.expand(-1, *u.shape), 0, (part + k)[None])[0] for k in (0, 1))
    return part, ((u - low) / (high - low)).clamp(0, 1)


def _between(scenes: Scenes, seen: Float[Tensor, "3 n k points"]) -> Float[Tensor, "3 n k points"]:
    """Offsets from the objects' centres in the camera's axes, in the objects'."""
    world = torch.stack([dot(scenes.view[:, a][..., None, None], seen) for a in range(3)])
    return torch.stack([dot(scenes.axes[:, b][..., None], world) for b in range(3)])
