r"""Synthetic shapes: simple figures whose corners are known exactly, to teach a detector what a corner is.

    polygon        3 to 6 corners, any of them                triangle fans and quadrilaterals included
    polygons       two or three of them, apart
    line           both ends                                  star        the middle and every tip
    checkerboard   every crossing of its lines, seen askew    stripes     both ends of every border
    cube           the seven vertices to be seen              ellipse, noise   none: round and grainy is not a corner

Every figure is a list of polygons, painted one over the other at twice the size and averaged, on a slowly varying ground,
then blurred and covered with noise. Grey, in [0, 1]; corners are `keypoints` of one object, 1 x n x (x, y, 2), pixels.

DeTone, Malisiewicz, Rabinovich: Toward Geometric Deep SLAM, 2017, arXiv:1707.07410; SuperPoint, 2018, arXiv:1712.07629.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from oculi.data.datasets import Splits
from oculi.types import Sample

FINER = 2  # places a pixel is sampled at, each way
Figure = tuple[list[Tensor], Tensor, list[float]]  # polygons (v x 2), corners (n x 2), contrasts of the polygons


class Draw:
    """Random numbers of one picture."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def between(self, low: float, high: float) -> float:
        """A number."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def numbers(self, count: int, low: float, high: float) -> Float[Tensor, " count"]:
        """Several."""
        return low + (high - low) * torch.rand(count, generator=self.generator)

    def whole(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))


def inside(polygon: Float[Tensor, "*polygons v 2"], points: Float[Tensor, "n 2"]) -> Bool[Tensor, "*polygons n"]:
    """Which points lie in the polygon: a ray to the right crosses its edges an odd number of times."""
    x, y = points.unbind(-1)
    (x1, y1), (x2, y2) = (ends[..., None].unbind(-2) for ends in (polygon, polygon.roll(-1, -2)))
    spans = (y1 > y) != (y2 > y)
    slope = (x2 - x1) / torch.where(y1 == y2, 1.0, y2 - y1)
    return (spans & (x < x1 + (y - y1) * slope)).sum(-2) % 2 == 1


def paint(ground: Float[Tensor, "h w"], polygons: list[Tensor], greys: list[float]) -> Float[Tensor, "h2 w2"]:
    """The polygons over the ground, later ones on top, and FINER times smaller."""
    height, width = ground.shape
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / FINER, (torch.arange(width) + 0.5) / FINER, indexing="ij")
    points = torch.stack([x, y], -1).reshape(-1, 2)
    picture = ground.reshape(-1).clone()
    if polygons:
        most = max(len(p) for p in polygons)
        padded = torch.stack([torch.cat([p, p[-1:].expand(most - len(p), 2)]) for p in polygons])
        covers = inside(padded, points)
        top = (covers * torch.arange(1, len(polygons) + 1)[:, None]).amax(0)
        picture = torch.where(top > 0, torch.tensor([0.0, *greys])[top], picture)
    return F.avg_pool2d(picture.reshape(1, 1, height, width), FINER)[0, 0]


def _ring(draw: Draw, x: float, y: float, radius: float, count: int) -> Float[Tensor, "count 2"]:
    """Corners around a middle, at angles and distances that vary, none of them nearly straight or on another."""
    turn = draw.between(0, 2 * math.pi)
    angle = turn + (torch.arange(count) + draw.numbers(count, -0.2, 0.2)) * (2 * math.pi / count)
    far = radius * draw.numbers(count, 0.75, 1.0)
    return torch.stack([x + far * angle.cos(), y + far * angle.sin()], -1)


def _polygon(draw: Draw, size: int) -> Figure:
    radius = draw.between(0.15, 0.4) * size
    x, y = draw.numbers(2, radius + 2, size - radius - 2).tolist()
    corners = _ring(draw, x, y, radius, draw.whole(3, 6))
    return [corners], corners, [1.0]


def _polygons(draw: Draw, size: int) -> Figure:
    half, radius = size / 2, size / 4 - 2
    quarters = torch.randperm(4, generator=draw.generator)[: draw.whole(2, 3)].tolist()
    rings = []
    for quarter in quarters:
        x, y = half * (quarter % 2 + 0.5), half * (quarter // 2 + 0.5)
        rings.append(_ring(draw, x, y, radius * draw.between(0.6, 1.0), draw.whole(3, 5)))
    return rings, torch.cat(rings), draw.numbers(len(rings), 0.7, 1.1).tolist()


def _stroke(start: Tensor, end: Tensor, thick: float) -> Float[Tensor, "4 2"]:
    along = F.normalize(end - start, dim=0) * thick / 2
    across = torch.stack([-along[1], along[0]])
    return torch.stack([start - across, end - across, end + across, start + across])


def _line(draw: Draw, size: int) -> Figure:
    ends = _ring(draw, size / 2, size / 2, draw.between(0.25, 0.45) * size, 2)
    return [_stroke(ends[0], ends[1], draw.between(1.0, 2.5))], ends, [1.0]


def _star(draw: Draw, size: int) -> Figure:
    radius = draw.between(0.2, 0.42) * size
    x, y = draw.numbers(2, radius + 2, size - radius - 2).tolist()
    tips, middle, thick = _ring(draw, x, y, radius, draw.whole(3, 5)), torch.tensor([x, y]), draw.between(1.0, 2.5)
    arms = [_stroke(middle, tip, thick) for tip in tips]
    return arms, torch.cat([tips, middle[None]]), [1.0] * len(arms)


def _askew(draw: Draw, size: int, rows: int, columns: int) -> Float[Tensor, "rows1 columns1 2"]:
    """The crossings of a grid seen from the side: bilinear between four corners, those nearer being further apart."""
    a, b, c, d = _ring(draw, size / 2, size / 2, draw.between(0.5, 0.75) * size, 4)
    lean = draw.between(0.7, 1.4)
    v, u = torch.meshgrid(torch.linspace(0, 1, rows + 1), torch.linspace(0, 1, columns + 1) ** lean, indexing="ij")
    v, u = v[..., None], u[..., None]
    return (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * d + u * c)


def _checkerboard(draw: Draw, size: int) -> Figure:
    return _grid(draw, size, draw.whole(2, 4), draw.whole(2, 4))


def _stripes(draw: Draw, size: int) -> Figure:
    return _grid(draw, size, 1, draw.whole(2, 5))


def _grid(draw: Draw, size: int, rows: int, columns: int) -> Figure:
    grid = _askew(draw, size, rows, columns)
    fields = torch.stack([grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]], 2).reshape(-1, 4, 2)
    dark = (torch.arange(rows)[:, None] + torch.arange(columns)).reshape(-1) % 2 == 1
    return list(fields), grid.reshape(-1, 2), torch.where(dark, -0.5, 1.0).tolist()


def _cube(draw: Draw, size: int) -> Figure:
    middle = torch.tensor([size / 2, size / 2]) + draw.numbers(2, -0.08, 0.08) * size
    e = _ring(draw, 0.0, 0.0, draw.between(0.2, 0.28) * size, 3)
    faces, corners = [], [middle, *(middle + e)]
    for i, j in ((0, 1), (1, 2), (2, 0)):
        faces.append(torch.stack([middle, middle + e[i], middle + e[i] + e[j], middle + e[j]]))
        corners.append(middle + e[i] + e[j])
    return faces, torch.stack(corners), [1.0, draw.between(0.4, 0.6), draw.between(-0.7, -0.4)]


def _ellipse(draw: Draw, size: int) -> Figure:
    wide, tall = draw.numbers(2, 0.12, 0.38).mul(size).tolist()
    turn = draw.between(0, math.pi)
    angle = torch.arange(32) * (2 * math.pi / 32)
    x, y = wide * angle.cos(), tall * angle.sin()
    radius = max(wide, tall)
    place = draw.numbers(2, radius + 2, size - radius - 2)
    turned = torch.stack([x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)], -1)
    return [turned + place], torch.zeros(0, 2), [1.0]


def _noise(draw: Draw, size: int) -> Figure:
    return [], torch.zeros(0, 2), []


FIGURES: dict[str, Callable[[Draw, int], Figure]] = {
    "polygon": _polygon,
    "polygons": _polygons,
    "line": _line,
    "star": _star,
    "checkerboard": _checkerboard,
    "stripes": _stripes,
    "cube": _cube,
    "ellipse": _ellipse,
    "noise": _noise,
}


class SyntheticShapes:
    """`length` pictures, numbered from `start`; picture i depends on (seed, start + i) and the options alone."""

    def __init__(self, length: int, size: int, seed: int, start: int, kinds: Sequence[str], noise: float, blur: float):
        unknown = [kind for kind in kinds if kind not in FIGURES]
        if unknown or not kinds:
            raise ValueError(f"kinds: expected some of {', '.join(FIGURES)}, got {unknown[0] if unknown else 'none'!r}")
        if length < 1:
            raise ValueError(f"length: expected at least one picture, got {length}")
        if not 32 <= size <= 512:
            raise ValueError(f"size: expected 32 to 512 pixels, got {size}")
        if noise < 0 or blur < 0:
            raise ValueError(f"noise, blur: expected at least 0, got {noise} and {blur}")
        self.length, self.size, self.seed, self.start = length, size, seed, start
        self.kinds, self.noise, self.blur = list(kinds), noise, blur
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(f"index: expected 0 to {self.length - 1}, got {index}")
        number = self.start + index
        if index not in self.kept:
            self.kept[index] = self._made(number)
        picture, corners = self.kept[index]
        keypoints = torch.cat([corners, torch.full((len(corners), 1), 2.0)], 1)[None]
        kind = self.kinds[number % len(self.kinds)]
        return Sample(
            image=picture.float() / 255, keypoints=keypoints, id=f"shapes-{self.seed}-{number}", facts={"kind": kind}
        )

    def _made(self, number: int) -> tuple[Tensor, Tensor]:
        """The picture in bytes, and the corners in it."""
        draw, size = Draw(self.seed * 1_000_003 + number + (7 << 58)), self.size
        polygons, corners, contrasts = FIGURES[self.kinds[number % len(self.kinds)]](draw, size)
        level = draw.between(0.2, 0.8)
        coarse = level + 0.1 * torch.randn(1, 1, 4, 4, generator=draw.generator)
        finer = (size * FINER, size * FINER)
        ground = F.interpolate(coarse, size=finer, mode="bicubic", align_corners=True)[0, 0]
        contrast = draw.between(0.3, 0.5) * (-1 if level > 0.5 else 1)
        picture = paint(ground, polygons, [min(1.0, max(0.0, level + contrast * share)) for share in contrasts])
        if self.blur:
            picture = _blurred(picture, draw.between(0.2, 1.0) * self.blur)
        amount = 0.15 if not polygons else self.noise * draw.between(0, 1)
        picture = picture + amount * torch.randn(size, size, generator=draw.generator)
        seen = ((corners >= 0) & (corners < size)).all(1)
        return (picture.clamp(0, 1) * 255).round().to(torch.uint8)[None], corners[seen]


def _blurred(picture: Float[Tensor, "h w"], sigma: float) -> Float[Tensor, "h w"]:
    offsets = torch.arange(-3, 4)
    bell = torch.exp(-offsets.square() / (2 * sigma**2))
    bell = bell / bell.sum()
    padded = F.pad(picture[None, None], (3, 3, 3, 3), mode="replicate")
    return F.conv2d(F.conv2d(padded, bell.view(1, 1, 1, 7)), bell.view(1, 1, 7, 1))[0, 0]


def load(
    size: int = 64,
    train: int = 2000,
    validation: int = 100,
    test: int = 200,
    seed: int = 0,
    kinds: Sequence[str] = tuple(FIGURES),
    noise: float = 0.05,
    blur: float = 0.8,
) -> Splits:
    """Splits of disjoint pictures; kinds: figures that occur, in turn; noise, blur: largest standard deviations, of the
    range and in pixels."""
    parts, start = [], 0
    for length in (train, validation, test):
        parts.append(SyntheticShapes(length, size, seed, start, kinds, noise, blur))
        start += length
    train_part, validation_part, test_part = parts
    return Splits(train_part, validation_part, test_part)
