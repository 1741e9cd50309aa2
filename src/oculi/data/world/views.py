r"""Views: one scene of the World pictured from many known places on an arc around it, for radiance fields."""

from __future__ import annotations

from dataclasses import replace

import torch

from oculi.data.datasets import Splits
from oculi.data.world.render import render
from oculi.data.world.scenes import Knobs, lay_out, look
from oculi.types import Sample

ARC = 2.0  # radians of azimuth that the cameras share; the wall is behind the scene from all of them
RISE = (0.35, 0.8)  # radians above the ground
AWAY = 7.0  # metres from the middle
PLAIN = Knobs(background="plain", objects=(3, 5))


def load(views: int = 40, test: int = 8, size: int = 64, seed: int = 0) -> Splits:
    """`views` pictures to train on and `test` held-out ones of scene `seed`; validation is the test's first half."""
    for name, given in (("views", views), ("test", test)):
        if given < 1:
            raise ValueError(f"{name}: expected at least 1 picture, got {given}")
    samples = pictures(views + test, size, seed)
    stride = (views + test) / test
    held_out = {int((index + 0.5) * stride) for index in range(test)}
    train = [sample for index, sample in enumerate(samples) if index not in held_out]
    hidden = [samples[index] for index in sorted(held_out)]
    return Splits(train, hidden[: max(1, test // 2)], hidden)


def pictures(count: int, size: int, seed: int, knobs: Knobs = PLAIN, arc: float = ARC) -> list[Sample]:
    """The scene from `count` places spread evenly over the arc, low and high by the golden ratio, with depth."""
    scenes = lay_out(seed, [0] * count, knobs)
    start = torch.atan2(scenes.wall_normal[1, 0], scenes.wall_normal[0, 0])
    index = torch.arange(count)
    turn = start + arc * ((index + 0.5) / count - 0.5)
    rise = RISE[0] + (RISE[1] - RISE[0]) * ((index * 0.6180339887) % 1)
    eye = AWAY * torch.stack([rise.cos() * turn.cos(), rise.cos() * turn.sin(), rise.sin()])
    target = torch.tensor([[0.0], [0.0], [0.5]]).expand(3, count)
    scenes = replace(scenes, eye=eye, view=look(eye, target))
    rendered, cameras = render(scenes, size, knobs, seed), scenes.cameras(size)
    return [
        Sample(image=rendered.image[i], depth=rendered.depth[i], camera=cameras[i], id=f"world-{seed}-view-{i}")
        for i in range(count)
    ]
