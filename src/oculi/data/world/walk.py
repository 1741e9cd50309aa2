r"""Walks: short videos of a World that stands still while the camera moves through it, with depth and every pose.

    eye_k     = eye + (k - (F - 1) / 2) * step            step: sideways, up or down and forward, at most `speed` metres
    target_k  = target + (k - (F - 1) / 2) * (step + drift)     8 metres ahead, drifting at most `drift` metres a frame

so that pixels move by a rotation, which says nothing of depth, and by parallax, which does; one is drawn apart from the
other (a camera that keeps looking at one place turns just so far that both nearly cancel there). `depth` is that of the first
frame, which is `image`; `camera` holds the cameras of all frames.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from oculi.data.datasets import Splits, consecutive
from oculi.data.world.render import render
from oculi.data.world.scenes import Knobs, Scenes, lay_out, look
from oculi.geometry.camera import Camera
from oculi.types import Sample


class WorldWalk:
    """`length` walks of `frames` pictures, numbered from `start`; walk i depends on (seed, start + i) and the knobs alone."""

    def __init__(
        self, length: int, frames: int, size: int, seed: int, start: int, knobs: Knobs, speed: float, drift: float
    ):
        if length < 1 or frames < 2:
            raise ValueError(f"length, frames: expected at least 1 walk of 2 frames, got {length} and {frames}")
        if not 16 <= size <= 1024:
            raise ValueError(f"size: expected 16 to 1024 pixels, got {size}")
        if speed < 0 or drift < 0:
            raise ValueError(f"speed, drift: expected at least 0 metres a frame, got {speed} and {drift}")
        self.length, self.frames, self.size, self.seed, self.start = length, frames, size, seed, start
        self.knobs, self.speed, self.drift = knobs, speed, drift
        self.kept: dict[int, tuple[Tensor, Tensor, Camera]] = {}  # bytes of pictures, depth, cameras

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(f"index: expected 0 to {self.length - 1}, got {index}")
        if index not in self.kept:
            scenes = self.scenes(index)
            rendered = render(scenes, self.size, self.knobs, self.seed)
            pictures = (rendered.image.clamp(0, 1) * 255).round().to(torch.uint8)
            self.kept[index] = (pictures, rendered.depth[0].clone(), scenes.cameras(self.size))
        pictures, depth, cameras = self.kept[index]
        video = pictures.float() / 255
        return Sample(
            image=video[0], video=video, depth=depth.clone(), camera=cameras,
            id=f"world-walk-{self.seed}-{self.start + index}",
        )  # fmt: skip

    def scenes(self, number: int) -> Scenes:
        """The scene as seen in every frame."""
        index = self.start + number
        scenes = lay_out(self.seed, [index] * self.frames, self.knobs)
        drawn = (
            torch.rand(6, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + index + (7 << 58))) * 2 - 1
        )
        when = torch.arange(self.frames) - (self.frames - 1) / 2
        right, down, forward = scenes.view[:, :, 0]
        step = self.speed * (drawn[0] * right + 0.5 * drawn[1] * down + 0.5 * drawn[2] * forward)
        target = scenes.eye[:, 0] + 8 * forward
        drift = self.drift * drawn[3:]
        eye = scenes.eye + step[:, None] * when
        return replace(scenes, eye=eye, view=look(eye, target[:, None] + (step + drift)[:, None] * when))


def load(
    frames: int = 3,
    size: int = 64,
    train: int = 1000,
    validation: int = 50,
    test: int = 100,
    seed: int = 0,
    objects: tuple[int, int] | list[int] = (2, 5),
    radius: tuple[float, float] | list[float] = (0.9, 1.4),
    fov: float = 40.0,
    speed: float = 0.5,
    drift: float = 0.3,
    background: str = "varied",
) -> Splits:
    """Splits of disjoint walks; objects, radius, fov and background are knobs of the World."""
    if len(objects) != 2 or len(radius) != 2:
        raise ValueError(f"objects, radius: expected two numbers each, got {objects} and {radius}")
    knobs = Knobs(
        objects=(int(objects[0]), int(objects[1])), radius=(float(radius[0]), float(radius[1])), fov=fov,
        background=background,
    )  # fmt: skip

    def made(length: int, start: int) -> WorldWalk:
        return WorldWalk(length, frames, size, seed, start, knobs, speed, drift)

    return consecutive(made, train, validation, test)
