r"""Where rays meet spheres, boxes, cylinders, cones and tori, in the object's own coordinates, and the normals there.

A ray is o + t d; all arrays are 3 x rays (structure of arrays, no matrix products, so that a ray gives the same bits in
every batch). Each ray first moves to its point closest to the object's origin, t0 = -o.d / d.d: what follows has the
object's size and loses nothing to the distance of the camera.

    sphere    |p| = s0
    box       |p_i| <= s_i                                     slabs
    cylinder  p_x^2 + p_y^2 <= s0^2, |p_z| <= s2               slab and quadratic
    cone      p_x^2 + p_y^2 = k^2 (s2 - p_z)^2, k = s0/(2 s2)  quadratic and base disc, apex up
    torus     hypot(hypot(p_x, p_y) - s0, p_z) = s1            sphere tracing, then Newton's method

Sources: Kay and Kajiya, SIGGRAPH 1986 (slabs); Hart, The Visual Computer 12, 1996 (sphere tracing).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SHAPES = ("sphere", "box", "cylinder", "cone", "torus")
TRACE_STEPS, NEWTON_STEPS = 32, 3
TOLERANCE = 1e-3  # a traced ray this near to the torus is a hit; Newton's method takes it to the surface
NEAREST = 1e-4  # what lies closer to a ray's origin, or behind it, is not met

Rays = Float[Tensor, "3 rays"]


def intersect(kind: Int[Tensor, " rays"], origin: Rays, direction: Rays, size: Rays) -> Float[Tensor, " rays"]:
    """t of the first point of each ray's own object, infinite where it is missed."""
    t = torch.full_like(origin[0], float("inf"))
    squared = dot(direction, direction)
    start = -dot(origin, direction) / squared
    near = origin + start * direction
    radius = bounding_radius(kind, size)
    close = dot(near, near) <= radius * radius
    for index, meet in enumerate((_sphere, _box, _cylinder, _cone, _torus)):
        chosen = ((kind == index) & close).nonzero()[:, 0]
        if len(chosen):
            local = meet(near[:, chosen], direction[:, chosen], size[:, chosen], start[chosen])
            t[chosen] = local + start[chosen]
    return torch.where(t > NEAREST, t, float("inf"))


def normal(kind: Int[Tensor, " rays"], point: Rays, size: Rays) -> Rays:
    """Outward unit normals at points of the surfaces."""
    x, y, z = point
    ring = hypot(x, y).clamp_min(1e-9)
    inverse = 1 / size.clamp_min(1e-9)
    result = point.clone()
    cap = (z.abs() * inverse[2] - 1).abs() * size[2]
    zero = torch.zeros_like(x)
    side = torch.stack([x, y, zero])
    end = torch.stack([zero, zero, z])
    slope = size[0] / (2 * size[2].clamp_min(1e-9))
    lateral = torch.stack([x, y, slope * ring])
    base = (z + size[2]).abs() < (ring - slope * (size[2] - z)).abs()
    tube = torch.stack([x * (1 - size[0] / ring), y * (1 - size[0] / ring), z])
    relative = (point * inverse).abs()
    face = torch.where(relative == relative.amax(0, keepdim=True), point, 0.0)
    for index, candidate in (
        (1, face),
        (2, torch.where(cap < (ring - size[0]).abs(), end, side)),
        (3, torch.where(base, end, lateral)),
        (4, tube),
    ):
        result = torch.where(kind == index, candidate, result)
    return result / dot(result, result).sqrt().clamp_min(1e-9)


def bounding_radius(kind: Int[Tensor, "*n"], size: Float[Tensor, "3 *n"]) -> Float[Tensor, "*n"]:
    """Radius of a ball about the object's origin that holds the object."""
    x, y, z = size
    radii = (x, (x * x + y * y + z * z).sqrt(), hypot(x, z), hypot(x, z), x + y)
    result = radii[0]
    for index in range(1, len(SHAPES)):
        result = torch.where(kind == index, radii[index], result)
    return result


def half_extents(kind: Int[Tensor, "*n"], size: Float[Tensor, "3 *n"]) -> Float[Tensor, "3 *n"]:
    """Half the sides of the tight box around each object, in its own axes."""
    x, y, z = size
    torus, sphere = kind == 4, kind == 0
    round_ = sphere | (kind == 2) | (kind == 3)
    wide = torch.where(torus, x + y, x)
    deep = torch.where(torus, x + y, torch.where(round_, x, y))
    return torch.stack([wide, deep, torch.where(torus, y, torch.where(sphere, x, z))])


def extreme(
    kind: Int[Tensor, "*n"], direction: Float[Tensor, "3 *n"], size: Float[Tensor, "3 *n"]
) -> Float[Tensor, "3 *n"]:
    """The point of each object furthest along a unit `direction` in its own axes; the middle of those, where many are."""
    level = torch.where(direction.abs() < 1e-5, 0.0, direction)
    x, y, z = level
    ring = hypot(x, y)
    around = torch.stack([x, y, torch.zeros_like(z)]) / ring.clamp_min(1e-9)
    end = torch.stack([torch.zeros_like(z), torch.zeros_like(z), size[2]])
    rim = size[0] * around - end
    answers = (
        size[0] * direction,
        size * level.sign(),
        size[0] * around + end * z.sign(),
        torch.where(dot(rim, level) > dot(end, level), rim, end),
        size[0] * around + size[1] * direction,
    )
    result = answers[0]
    for index in range(1, len(SHAPES)):
        result = torch.where(kind == index, answers[index], result)
    return result


def dot(a: Float[Tensor, "3 *#n"], b: Float[Tensor, "3 *#n"]) -> Tensor:
    """Inner product written out, the same bits in every batch."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def hypot(a: Tensor, b: Tensor) -> Tensor:
    """Length of (a, b); our numbers neither over- nor underflow."""
    return (a * a + b * b).sqrt()


def _hit(near: Tensor, far: Tensor, start: Tensor) -> Tensor:
    """A convex body's entry, or its exit for a ray that starts inside; infinite where entry follows exit."""
    first = torch.where(near + start > NEAREST, near, far)
    return torch.where(near <= far, first, float("inf"))


def _sphere(o: Rays, d: Rays, size: Rays, start: Tensor) -> Tensor:
    room = (size[0] * size[0] - dot(o, o)) / dot(d, d)
    half = room.clamp_min(0).sqrt()
    return torch.where(room >= 0, _hit(-half, half, start), float("inf"))


def _box(o: Rays, d: Rays, size: Rays, start: Tensor) -> Tensor:
    near, far = _slabs(o, d, size)
    return _hit(near.amax(0), far.amin(0), start)


def _slabs(o: Tensor, d: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    inverse = 1 / torch.where(d.abs() < 1e-9, 1e-9, d)
    middle, half = -o * inverse, size * inverse.abs()
    return middle - half, middle + half


def _cylinder(o: Rays, d: Rays, size: Rays, start: Tensor) -> Tensor:
    a = (d[0] * d[0] + d[1] * d[1]).clamp_min(1e-12)
    b = o[0] * d[0] + o[1] * d[1]
    cross = o[0] * d[1] - o[1] * d[0]
    room = size[0] * size[0] * a - cross * cross
    half = room.clamp_min(0).sqrt()
    low, high = _slabs(o[2], d[2], size[2])
    hit = _hit(torch.maximum(low, (-b - half) / a), torch.minimum(high, (-b + half) / a), start)
    return torch.where(room >= 0, hit, float("inf"))


def _cone(o: Rays, d: Rays, size: Rays, start: Tensor) -> Tensor:
    slope = size[0] / (2 * size[2])
    k, down = slope * slope, size[2] - o[2]
    a = d[0] * d[0] + d[1] * d[1] - k * d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + k * down * d[2]
    c = o[0] * o[0] + o[1] * o[1] - k * down * down
    room = b * b - a * c
    q = -(b + torch.where(b < 0, -1.0, 1.0) * room.clamp_min(0).sqrt())
    best = torch.full_like(b, float("inf"))
    for t in (q / torch.where(a.abs() < 1e-12, 1e-12, a), c / torch.where(q.abs() < 1e-12, 1e-12, q)):
        inside = (room >= 0) & ((o[2] + t * d[2]).abs() <= size[2]) & (t + start > NEAREST)
        best = torch.where(inside & (t < best), t, best)
    t = (-size[2] - o[2]) / torch.where(d[2].abs() < 1e-9, 1e-9, d[2])
    x, y = o[0] + t * d[0], o[1] + t * d[1]
    inside = (x * x + y * y <= size[0] * size[0]) & (t + start > NEAREST)
    return torch.where(inside & (t < best), t, best)


def _torus(o: Rays, d: Rays, size: Rays, start: Tensor) -> Tensor:
    speed = dot(d, d).sqrt()
    reach = size[0] + size[1]
    half = (reach * reach - dot(o, o)).clamp_min(0).sqrt() / speed
    t = torch.maximum(-half, NEAREST - start)
    for _ in range(TRACE_STEPS):
        t = t + _torus_distance(o + t * d, size) / speed
    hit = (_torus_distance(o + t * d, size) < TOLERANCE) & (t <= half + TOLERANCE)
    for _ in range(NEWTON_STEPS):
        point = o + t * d
        ring = hypot(point[0], point[1]).clamp_min(1e-9)
        pull = 1 - size[0] / ring
        tube = hypot(ring - size[0], point[2]).clamp_min(1e-9)
        slope = (point[0] * pull * d[0] + point[1] * pull * d[1] + point[2] * d[2]) / tube
        step = (tube - size[1]) / torch.where(slope.abs() < 1e-4, -1e-4, slope)
        t = t - step.clamp(-0.02, 0.02)
    hit &= _torus_distance(o + t * d, size).abs() < 1e-5
    return torch.where(hit, t, float("inf"))


def _torus_distance(point: Rays, size: Rays) -> Float[Tensor, " rays"]:
    return hypot(hypot(point[0], point[1]) - size[0], point[2]) - size[1]


def inside(kind: Int[Tensor, " n"], point: Rays, size: Rays) -> Bool[Tensor, " n"]:
    """Whether points lie in their objects."""
    x, y, z = point
    ring = hypot(x, y)
    answers = (
        dot(point, point) <= size[0] * size[0],
        (point.abs() <= size).all(0),
        (ring <= size[0]) & (z.abs() <= size[2]),
        (ring <= size[0] / (2 * size[2]) * (size[2] - z)) & (z.abs() <= size[2]),
        _torus_distance(point, size) <= 0,
    )
    result = answers[0]
    for index in range(1, len(SHAPES)):
        result = torch.where(kind == index, answers[index], result)
    return result
