r"""Pairs: two views of one scene of the World with depth and camera of each, for what relates two pictures in 3D.

Both cameras look at the middle of the scene from 7 to 9 metres, each turned about the vertical by up to half of `turn`
from the wall's normal; the field of view is drawn once a scene, so that a picture does not tell its focal length by heart.

    image, depth, camera                    the first view
    next_image, next_depth, next_camera     the second: nothing moved but the camera
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from oculi.data.datasets import Splits, consecutive
from oculi.data.world.dataset import pack, unpack
from oculi.data.world.render import render
from oculi.data.world.scenes import Knobs, Scenes, lay_out, look
from oculi.types import Sample

BLOCK = 16
RISE = (0.4, 0.75)  # radians above the ground
AWAY = (7.0, 9.0)  # metres from the middle


class WorldPairs:
    """`length` pairs, numbered from `start`; pair i depends on (seed, start + i), the knobs and the ranges alone."""

    def __init__(
        self, length: int, size: int, seed: int, start: int, knobs: Knobs, turn: float, fov: tuple[float, float]
    ):
        if length < 1:
            raise ValueError(f"length: expected at least one pair, got {length}")
        if not 16 <= size <= 1024:
            raise ValueError(f"size: expected 16 to 1024 pixels, got {size}")
        if not 0 <= turn <= 1.5:
            raise ValueError(f"turn: expected 0 to 1.5 radians, got {turn}")
        if not 10 <= fov[0] <= fov[1] <= 90:
            raise ValueError(f"fov: expected 10 <= least <= most <= 90 degrees, got {fov}")
        self.length, self.size, self.seed, self.start = length, size, seed, start
        self.knobs, self.turn, self.fov = knobs, turn, fov
        self.kept: dict[int, list[dict[str, Any]]] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(f"index: expected 0 to {self.length - 1}, got {index}")
        block = index // BLOCK
        if block not in self.kept:
            made = self.make(range(block * BLOCK, min(self.length, (block + 1) * BLOCK)))
            self.kept[block] = [pack(sample) for sample in made]
        return unpack(self.kept[block][index % BLOCK])

    def make(self, indices: range) -> list[Sample]:
        """The pairs of these numbers, rendered together."""
        numbers = [self.start + i for i in indices]
        views = self.scenes([n for n in numbers for _ in range(2)])
        seen, cameras = render(views, self.size, self.knobs, self.seed), views.cameras(self.size)
        return [
            Sample(
                image=seen.image[i], depth=seen.depth[i], camera=cameras[i],
                next_image=seen.image[i + 1], next_depth=seen.depth[i + 1], next_camera=cameras[i + 1],
                id=f"world-pair-{self.seed}-{number}",
            )
            for i, number in zip(range(0, 2 * len(numbers), 2), numbers)
        ]  # fmt: skip

    def scenes(self, numbers: Sequence[int]) -> Scenes:
        """The scene of each view; the k-th time that a number comes it is seen by its k-th camera."""
        scenes = lay_out(self.seed, list(numbers), self.knobs)
        drawn = torch.stack([_draws(self.seed, n, list(numbers[:k]).count(n)) for k, n in enumerate(numbers)], 1)
        lens = torch.stack([_draws(self.seed, n, -1)[0] for n in numbers])
        wall = torch.atan2(scenes.wall_normal[1], scenes.wall_normal[0])
        turn = wall + self.turn * (drawn[0] - 0.5)
        rise = RISE[0] + (RISE[1] - RISE[0]) * drawn[1]
        away = AWAY[0] + (AWAY[1] - AWAY[0]) * drawn[2]
        eye = away * torch.stack([rise.cos() * turn.cos(), rise.cos() * turn.sin(), rise.sin()])
        target = torch.stack([drawn[3] - 0.5, drawn[4] - 0.5, 0.3 + 0.5 * drawn[5]])
        half = torch.deg2rad(self.fov[0] + (self.fov[1] - self.fov[0]) * lens) / 2
        return replace(scenes, eye=eye, view=look(eye, target), focal=0.5 / half.tan())


def _draws(seed: int, number: int, view: int) -> Tensor:
    """Six numbers in [0, 1) of a view of a pair; view -1 is what both share."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + (number * 64 + view + 1) + (7 << 57))
    return torch.rand(6, generator=generator)


def load(
    size: int = 64,
    train: int = 2000,
    validation: int = 100,
    test: int = 200,
    seed: int = 0,
    turn: float = 0.7,
    fov: Sequence[float] = (45.0, 55.0),
    objects: Sequence[int] = (2, 5),
    radius: Sequence[float] = (0.7, 1.2),
    background: str = "varied",
) -> Splits:
    """Splits of disjoint scenes; turn: radians between the most distant views; fov: degrees, drawn once a scene; objects,
    radius and background are knobs of the World."""
    if not len(fov) == len(objects) == len(radius) == 2:
        raise ValueError(f"fov, objects, radius: expected two numbers each, got {fov}, {objects} and {radius}")
    knobs = Knobs(
        objects=(int(objects[0]), int(objects[1])), radius=(float(radius[0]), float(radius[1])), background=background
    )

    def made(length: int, start: int) -> WorldPairs:
        return WorldPairs(length, size, seed, start, knobs, turn, (float(fov[0]), float(fov[1])))

    return consecutive(made, train, validation, test)
