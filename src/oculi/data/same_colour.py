r"""Same colour or not: World scenes whose label takes two objects that stand far apart.

Two plain objects stand left and right of the middle, `apart` metres from each other across the view; the label is 1 where
they have the same of World's eight colours, which is so in half of the scenes. Shapes, sizes, light, ground and wall vary as
in World and say nothing. No neighbourhood of a pixel that holds one object alone tells the label, so what adds up local
evidence (a network of small receptive field before global pooling) stays at chance.

    open_data("same_colour", size=64, train=8000)
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from oculi.data.datasets import Splits
from oculi.data.world.dataset import World
from oculi.data.world.render import render
from oculi.data.world.scenes import COLOURS, Knobs, Scenes, lay_out
from oculi.types import Sample

CLASSES = ["different", "same"]


class SameColour(World):
    """`length` scenes, numbered from `start`; scene i depends on (seed, start + i) and `apart` alone."""

    def __init__(self, length: int, size: int = 64, seed: int = 0, start: int = 0, apart: float = 6.0):
        super().__init__(length, "classification", size, seed, start)
        if not 4 <= apart <= 7:
            raise ValueError(f"apart: expected 4 to 7 metres, got {apart}")
        self.apart = apart
        self.knobs = Knobs(objects=(2, 2), radius=(0.7, 1.1), texture="flat", fov=65.0)

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        return list(CLASSES)

    def scenes(self, numbers: list[int]) -> tuple[Scenes, Tensor]:
        """The scenes and their labels."""
        drawn = torch.stack(
            [
                torch.rand(8, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + i + (5 << 58)))
                for i in numbers
            ],
            1,
        )
        scenes = lay_out(self.seed, numbers, self.knobs)
        same = drawn[0] < 0.5
        other = 1 + (drawn[1] * (len(COLOURS) - 1)).long().clamp_max(len(COLOURS) - 2)
        colour = torch.stack([scenes.colour[:, 0], (scenes.colour[:, 0] + other * ~same) % len(COLOURS)], 1)
        paint = torch.tensor(list(COLOURS.values())).T[:, colour] * (0.8 + 0.2 * drawn[2:4].T)
        right, ahead = scenes.view[0, :2, :, None], scenes.view[2, :2, :, None]
        across = self.apart / 2 * torch.tensor([-1.0, 1.0]) + 0.6 * (drawn[4:6].T - 0.5)
        x, y = right * across + ahead * (drawn[6:8].T - 0.5)
        scenes = replace(
            scenes,
            colour=colour,
            paint=torch.stack([paint, paint]),
            center=torch.stack([x, y, scenes.center[2]]),
            exists=torch.ones_like(scenes.exists),
        )
        return scenes, same.long()

    def make(self, indices: range | list[int]) -> list[Sample]:
        """The samples of these scenes, rendered together."""
        numbers = [self.start + i for i in indices]
        scenes, labels = self.scenes(numbers)
        images = render(scenes, self.size, self.knobs, self.seed).image
        return [
            Sample(image=image, label=label, id=f"same-colour-{self.seed}-{number}")
            for image, label, number in zip(images, labels.tolist(), numbers, strict=True)
        ]


def load(
    size: int = 64, train: int = 4000, validation: int = 500, test: int = 1000, seed: int = 0, apart: float = 6.0
) -> Splits:
    """Splits of disjoint scenes; `apart`: metres between the two objects."""
    starts = (0, train, train + validation)
    first, second, third = (
        SameColour(n, size, seed, start, apart) for n, start in zip((train, validation, test), starts, strict=True)
    )
    return Splits(first, second, third, list(CLASSES))
