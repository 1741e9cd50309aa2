r"""Short videos of the World: objects wander over the ground, pass before each other, and some leave the picture.

Each object has a velocity and a turning speed of its own, so that step k is the scene with every object moved by k times
that; the camera stands still. What is followed are the objects to be seen in the first frame; where one is hidden later,
or shows next to nothing, its mask is empty.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oculi.data.datasets import Splits, consecutive
from oculi.data.world.render import render
from oculi.data.world.scenes import Knobs, Scenes, lay_out, moved
from oculi.data.world.truth import visible
from oculi.ops.boxes import mask_boxes
from oculi.types import Sample


class WorldVideo:
    """`length` videos of `frames` pictures, numbered from `start`; video i depends on (seed, start + i) and the knobs alone.

    speed: of the fastest objects, metres a frame.
    """

    def __init__(self, length: int, frames: int, size: int, seed: int, start: int, knobs: Knobs, speed: float):
        if length < 1 or frames < 1:
            raise ValueError(f"length, frames: expected at least 1 of each, got {length} and {frames}")
        if not 16 <= size <= 1024:
            raise ValueError(f"size: expected 16 to 1024 pixels, got {size}")
        if speed < 0:
            raise ValueError(f"speed: expected at least 0 metres a frame, got {speed}")
        self.length, self.frames, self.size, self.seed, self.start = length, frames, size, seed, start
        self.knobs, self.speed = knobs, speed
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}  # bytes of pictures, and masks

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(f"index: expected 0 to {self.length - 1}, got {index}")
        if index not in self.kept:
            self.kept[index] = self._made(index)
        pictures, masks = self.kept[index]
        video = pictures.float() / 255
        boxes = mask_boxes(masks[:, 0])
        return Sample(
            image=video[0], video=video, masks=masks[:, 0].clone(), video_masks=masks.clone(), boxes=boxes,
            id=f"world-video-{self.seed}-{self.start + index}",
        )  # fmt: skip

    def _made(self, number: int) -> tuple[Tensor, Tensor]:
        """All frames of a video as one block of scenes."""
        scenes = self.scenes(number)
        rendered = render(scenes, self.size, self.knobs, self.seed)
        masks = visible(rendered.slot, scenes.kind.shape[1]).transpose(0, 1)
        followed = masks[masks[:, 0].flatten(1).any(1)]
        return (rendered.image * 255).round().to(torch.uint8), followed.contiguous()

    def scenes(self, number: int) -> Scenes:
        """The scene of every frame."""
        index = self.start + number
        first = lay_out(self.seed, [index] * self.frames, self.knobs)
        objects = first.kind.shape[1]
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index + (5 << 58))
        drawn = torch.rand(3, objects, generator=generator) * 2 - 1
        step = torch.arange(self.frames)[:, None]
        by = torch.stack([step * drawn[0], step * drawn[1], torch.zeros(self.frames, objects)]) * self.speed
        return moved(first, by, 0.3 * step * drawn[2])


def load(
    frames: int = 6,
    size: int = 64,
    train: int = 1000,
    validation: int = 50,
    test: int = 100,
    seed: int = 0,
    objects: tuple[int, int] | list[int] = (2, 5),
    radius: tuple[float, float] | list[float] = (0.9, 1.4),
    fov: float = 40.0,
    speed: float = 0.8,
) -> Splits:
    """Splits of disjoint videos; objects, radius and fov are knobs of the World."""
    if len(objects) != 2 or len(radius) != 2:
        raise ValueError(f"objects, radius: expected two numbers each, got {objects} and {radius}")
    knobs = Knobs(
        objects=(int(objects[0]), int(objects[1])), radius=(float(radius[0]), float(radius[1])), fov=fov, occlusion=0.6
    )

    def made(length: int, start: int) -> WorldVideo:
        return WorldVideo(length, frames, size, seed, start, knobs, speed)

    return consecutive(made, train, validation, test)
