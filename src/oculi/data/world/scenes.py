r"""Random scenes by (seed, index): what stands where, in which light, seen from where.

The ground is the plane z = 0 (z up, metres), a wall stands behind it facing the camera, objects stand on the ground
without touching. Every number of a scene comes from one generator seeded by (seed, index) alone, and everything derived
from it is elementwise, so a scene has the same bits alone and in any block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oculi.data.world.shapes import SHAPES, bounding_radius, dot, half_extents
from oculi.geometry.camera import Camera

TEXTURES = ("flat", "checker", "stripes", "noise")
TEXTURE_WORDS = ("plain", "checkered", "striped", "mottled")
COLOURS = {
    "red": (0.85, 0.12, 0.10),
    "orange": (0.95, 0.50, 0.05),
    "yellow": (0.93, 0.85, 0.12),
    "pink": (0.95, 0.45, 0.65),
    "green": (0.12, 0.65, 0.20),
    "cyan": (0.10, 0.75, 0.80),
    "blue": (0.12, 0.25, 0.85),
    "purple": (0.50, 0.15, 0.70),
}
COLOUR_NAMES = tuple(COLOURS)
MOST_OBJECTS = 8
_TRIES, _PER_OBJECT, _PER_SCENE = 12, 12 + 2 * 12, 32


@dataclass(frozen=True)
class Knobs:
    """What a world is like; ranges are drawn from uniformly.

    objects: how many at most and at least; radius: of an object, metres; light: brightness (1 normal, 0.3 dusk);
    texture: `mixed`, one of TEXTURES, or `real` (photographs); background: `varied`, `plain` or `checker` ground, or
    `marble`, ground and wall nowhere flat; fov: horizontal field of view, degrees; blur and noise: standard deviations,
    pixels and [0, 1];
    balance: frequency of the rarest class relative to the commonest, geometric in between;
    label_noise: share of wrong labels; occlusion: 0 spread out, 1 crowded; lights: 1 to 3; shadows: cast or not.
    """

    objects: tuple[int, int] = (1, 5)
    radius: tuple[float, float] = (0.7, 1.2)
    light: float = 1.0
    texture: str = "mixed"
    background: str = "varied"
    fov: float = 50.0
    blur: float = 0.0
    noise: float = 0.0
    balance: float = 1.0
    label_noise: float = 0.0
    occlusion: float = 0.3
    lights: int = 1
    shadows: bool = True

    def __post_init__(self) -> None:
        low, high = self.objects
        if not 1 <= low <= high <= MOST_OBJECTS:
            raise ValueError(f"objects: expected 1 <= least <= most <= {MOST_OBJECTS}, got {self.objects}")
        if not 0 < self.radius[0] <= self.radius[1] <= 3:
            raise ValueError(f"radius: expected 0 < least <= most <= 3 metres, got {self.radius}")
        if self.texture not in ("mixed", "real", *TEXTURES):
            raise ValueError(f"texture: expected mixed, real or one of {', '.join(TEXTURES)}, got {self.texture!r}")
        if self.background not in ("varied", "plain", "checker", "marble"):
            raise ValueError(f"background: expected varied, plain, checker or marble, got {self.background!r}")
        limits: dict[str, tuple[float, float]] = {
            "light": (0, 4),
            "fov": (10, 120),
            "blur": (0, 8),
            "noise": (0, 1),
            "occlusion": (0, 1),
        }
        limits |= {"balance": (1e-4, 1), "label_noise": (0, 1), "lights": (1, 3)}
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name}: expected {least} to {most}, got {getattr(self, name)}")


@dataclass
class Scenes:
    """N scenes of up to K objects. `axes[a, b]` is component a of the object's axis b; camera axes are its rows."""

    index: Int[Tensor, " n"]
    exists: Bool[Tensor, "n k"]
    kind: Int[Tensor, "n k"]
    size: Float[Tensor, "3 n k"]
    center: Float[Tensor, "3 n k"]
    axes: Float[Tensor, "3 3 n k"]
    yaw: Float[Tensor, "n k"]
    tilted: Bool[Tensor, "n k"]
    texture: Int[Tensor, "n k"]
    colour: Int[Tensor, "n k"]
    paint: Float[Tensor, "2 3 n k"]
    period: Float[Tensor, "n k"]
    eye: Float[Tensor, "3 n"]
    view: Float[Tensor, "3 3 n"]
    focal: Float[Tensor, " n"]
    sun: Float[Tensor, "lights 3 n"]
    strength: Float[Tensor, "lights n"]
    ambient: Float[Tensor, " n"]
    ground: Float[Tensor, "2 3 n"]
    wall: Float[Tensor, "3 n"]
    wall_normal: Float[Tensor, "2 n"]
    wall_distance: Float[Tensor, " n"]
    checker: Bool[Tensor, " n"]
    marbled: Bool[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.index)

    def cameras(self, size: int) -> Camera:
        """The cameras as a batch."""
        n = len(self)
        K = torch.zeros(n, 3, 3)
        K[:, 0, 0] = K[:, 1, 1] = self.focal * size
        K[:, 0, 2] = K[:, 1, 2] = size / 2
        K[:, 2, 2] = 1
        matrix = torch.zeros(n, 4, 4)
        matrix[:, :3, :3] = self.view.permute(2, 0, 1)
        matrix[:, :3, 3] = -torch.stack([dot(row, self.eye) for row in self.view], 1)
        matrix[:, 3, 3] = 1
        return Camera(K, matrix, size, size)


def lay_out(seed: int, indices: list[int], knobs: Knobs, classes: int = len(SHAPES), single: bool = False) -> Scenes:
    """The scenes of these indices. With `single` the object stands in the middle and its class is the scene's."""
    most = knobs.objects[1]
    rows = []
    for index in indices:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + index * 7919 + 12345) % (1 << 62))
        rows.append(torch.rand(_PER_SCENE + _PER_OBJECT * MOST_OBJECTS, generator=generator))
    numbers = torch.stack(rows, 1)
    whole, own = numbers[:_PER_SCENE], numbers[_PER_SCENE:].reshape(_PER_OBJECT, MOST_OBJECTS, -1)[:, :most]
    own = own.transpose(1, 2).contiguous()  # draws x scenes x objects
    kind, texture, colour = _classes(own, knobs, classes)
    radius = _between(own[3], *knobs.radius)
    size, tilted = _sizes(kind, radius, own)
    yaw = own[7] * 6.2831853
    wanted = knobs.objects[0] + (whole[0] * (most - knobs.objects[0] + 1)).long().clamp_max(most - knobs.objects[0])
    spread = 0.0 if single else 3.4 - 1.6 * knobs.occlusion
    x, y, exists = _places(own, footprint(kind, size, tilted), wanted, spread, 0.4 * (1 - knobs.occlusion))
    extents = half_extents(kind, size)
    center = torch.stack([x, y, torch.where(tilted, extents[0], extents[2])])
    palette = torch.tensor(list(COLOURS.values())).T
    main = palette[:, colour] * (0.8 + 0.2 * own[8])
    second = torch.where(own[9] < 0.5, 0.25 * main, 0.35 * main + 0.62)
    return Scenes(
        index=torch.tensor(indices), exists=exists, kind=kind, size=size, center=center, axes=_axes(yaw, tilted),
        yaw=yaw, tilted=tilted, texture=texture, colour=colour, paint=torch.stack([main, second]),
        period=radius * _between(own[10], 0.42, 0.6), **_camera(whole, knobs, single), **_light(whole, knobs),
    )  # fmt: skip


def _between(value: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * value


def class_shares(classes: int, balance: float) -> Float[Tensor, " classes"]:
    """Frequencies of the classes: geometric from 1 down to `balance`, normalised."""
    shares = balance ** (torch.arange(classes) / max(1, classes - 1))
    return shares / shares.sum()


def _classes(own: Tensor, knobs: Knobs, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Shape, texture and colour. Beyond five classes the texture is part of the class, beyond 20 whether the colour is
    warm or cool, beyond 40 the colour itself.
    """
    edges = class_shares(classes, knobs.balance).cumsum(0)[:-1]
    label = (own[0][..., None] >= edges).sum(-1)
    kind = label % len(SHAPES)
    texture = (own[1] * len(TEXTURES)).long().clamp_max(len(TEXTURES) - 1)
    if knobs.texture in TEXTURES:
        texture = torch.full_like(texture, TEXTURES.index(knobs.texture))
    elif knobs.texture == "real":
        texture = torch.full_like(texture, len(TEXTURES))
    colour = (own[2] * len(COLOURS)).long().clamp_max(len(COLOURS) - 1)
    if classes > len(SHAPES):
        texture = label // len(SHAPES) % len(TEXTURES)
    group = label // (len(SHAPES) * len(TEXTURES))
    if classes > 2 * len(SHAPES) * len(TEXTURES):
        colour = group
    elif classes > len(SHAPES) * len(TEXTURES):
        colour = colour % 4 + 4 * group
    return kind, texture, colour


def _sizes(kind: Tensor, radius: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Sizes as `shapes` reads them; a torus or a cylinder may lie on its side, that is with its axis horizontal."""
    a, b, c = own[4], own[5], own[6]
    one = torch.ones_like(a)
    tables = (
        (one, one, one),
        (_between(a, 0.6, 0.8), _between(b, 0.6, 0.8), _between(c, 0.55, 0.8)),
        (_between(a, 0.5, 0.65), one, _between(b, 0.7, 0.9)),
        (_between(a, 0.7, 0.85), one, _between(b, 0.75, 0.95)),
        (_between(a, 0.66, 0.72), _between(b, 0.22, 0.3), one),
    )
    parts = []
    for axis in range(3):
        part = tables[0][axis]
        for index in range(1, len(SHAPES)):
            part = torch.where(kind == index, tables[index][axis], part)
        parts.append(part * radius)
    return torch.stack(parts), (kind == 4) & (c < 0.5)


def footprint(kind: Tensor, size: Tensor, tilted: Tensor) -> Tensor:
    """Radius of the disc on the ground that an object stays in."""
    extents = half_extents(kind, size)
    flat = torch.where(kind == 1, (size[0] * size[0] + size[1] * size[1]).sqrt(), extents[0])
    return torch.where(tilted, bounding_radius(kind, size), flat)


def _places(own: Tensor, radius: Tensor, wanted: Tensor, spread: float, gap: float) -> tuple[Tensor, Tensor, Tensor]:
    """Free places one object after the other; who finds none in a dozen tries stays away, except the first."""
    most = radius.shape[1]
    tries = own[12 : 12 + 2 * _TRIES].reshape(_TRIES, 2, *radius.shape)
    x, y = torch.zeros_like(radius), torch.zeros_like(radius)
    exists = torch.zeros_like(radius, dtype=torch.bool)
    for k in range(most):
        tx, ty = (tries[:, 0, :, k] - 0.5) * 2 * spread, (tries[:, 1, :, k] - 0.5) * 2 * spread
        free = torch.ones_like(tx, dtype=torch.bool)
        for j in range(k):
            apart = (tx - x[:, j]) ** 2 + (ty - y[:, j]) ** 2 >= (radius[:, j] + radius[:, k] + gap) ** 2
            free &= apart | ~exists[:, j]
        pick = free.to(torch.int8).argmax(0)[None]
        x[:, k], y[:, k] = tx.gather(0, pick)[0], ty.gather(0, pick)[0]
        exists[:, k] = free.any(0) & (k < wanted)
    return x, y, exists


def _axes(yaw: Tensor, tilted: Tensor) -> Float[Tensor, "3 3 n k"]:
    """Axes of objects turned about the vertical; a tilted one has its z axis horizontal and its x axis down."""
    cos, sin, zero, one = yaw.cos(), yaw.sin(), torch.zeros_like(yaw), torch.ones_like(yaw)
    upright = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one])
    lying = torch.stack([zero, -sin, cos, zero, cos, sin, -one, zero, zero])
    return torch.where(tilted, lying, upright).reshape(3, 3, *yaw.shape)


def moved(scenes: Scenes, by: Float[Tensor, "3 n k"], turn: Float[Tensor, "n k"]) -> Scenes:
    """The scenes after objects moved by `by` metres and turned by `turn` radians about the vertical."""
    yaw = scenes.yaw + turn
    return replace(scenes, center=scenes.center + by, yaw=yaw, axes=_axes(yaw, scenes.tilted))


def look(eye: Float[Tensor, "3 n"], target: Float[Tensor, "3 n"]) -> Float[Tensor, "3 3 n"]:
    """Rows of world-to-camera rotations: right, down, forward, with the world's z up."""
    forward = target - eye
    forward = forward / dot(forward, forward).sqrt()
    flat = (forward[0] * forward[0] + forward[1] * forward[1]).sqrt()
    right = torch.stack([forward[1] / flat, -forward[0] / flat, torch.zeros_like(flat)])
    down = torch.stack(
        [-forward[2] * right[1], forward[2] * right[0], forward[0] * right[1] - forward[1] * right[0]]
    )  # forward x right
    return torch.stack([right, down, forward])


def _camera(whole: Tensor, knobs: Knobs, single: bool) -> dict[str, Tensor]:
    """A camera that looks at the middle from 20 to 45 degrees above, and the wall far behind the middle."""
    turn, rise = whole[1] * 6.2831853, _between(whole[2], 0.4, 0.75)
    far = _between(whole[3], 5.0, 6.5) if single else _between(whole[3], 8.0, 9.0)
    flat = far * rise.cos()
    eye = torch.stack([flat * turn.cos(), flat * turn.sin(), far * rise.sin()])
    shift = 0.6 if single else 0.3
    target = torch.stack([(whole[4] - 0.5) * shift, (whole[5] - 0.5) * shift, _between(whole[6], 0.3, 0.8)])
    half = torch.deg2rad(torch.tensor(knobs.fov / 2)).tan()
    return {
        "eye": eye,
        "view": look(eye, target),
        "focal": (0.5 / half).expand_as(far),
        "wall_normal": torch.stack([turn.cos(), turn.sin()]),
        "wall_distance": -_between(whole[7], 6.5, 9.0),
    }


def _light(whole: Tensor, knobs: Knobs) -> dict[str, Tensor]:
    """Distant lights above the horizon, ambient light, and the colours of ground and wall."""
    suns, strengths = [], []
    for light in range(knobs.lights):
        turn, rise = whole[8 + 2 * light] * 6.2831853, _between(whole[9 + 2 * light], 0.6, 1.2)
        suns.append(torch.stack([rise.cos() * turn.cos(), rise.cos() * turn.sin(), rise.sin()]))
        strengths.append(torch.full_like(turn, 0.75 / knobs.lights))
    greys = _between(whole[14:16], 0.4, 0.75)
    tint = _between(whole[16:22].reshape(2, 3, -1), -0.12, 0.12)
    if knobs.background == "plain":
        greys, tint = torch.full_like(greys, 0.6), torch.zeros_like(tint)
    ground = greys[0] + tint[0]
    checker = whole[22] < {"varied": 0.4, "plain": 0.0, "checker": 1.1, "marble": 0.0}[knobs.background]
    bright = knobs.light * _between(whole[23], 0.85, 1.15)
    return {
        "sun": torch.stack(suns),
        "strength": torch.stack(strengths) * bright,
        "ambient": 0.4 * bright,
        "ground": torch.stack([ground, ground * 0.75]),
        "wall": (greys[1] + tint[1]).clamp(0, 1),
        "checker": checker,
        "marbled": torch.full_like(checker, knobs.background == "marble"),
    }
