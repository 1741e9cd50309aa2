r"""Maps out of masks: a class and an object per pixel, where a data set has objects alone.

`semantic` is 0 = background, label + 1 for objects, 255 for crowd regions; `panoptic` is 0, or the object's place + 1.
Where masks lie over each other the smaller one is in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from oculi.data.datasets import Splits
from oculi.types import IGNORE, Sample


class Painted:
    """Pictures with masks whose samples have maps too; crowd regions are painted even where they are left out."""

    def __init__(self, pictures: Any, crowd: bool = True):
        self.pictures, self.crowd = pictures, crowd

    def part(self, indices: Sequence[int], crowd: bool = True) -> Painted:
        """Some of the pictures; without `crowd` regions they are fit to train on."""
        return Painted(self.pictures.part(indices), crowd)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Sample:
        sample = paint(self.pictures[index])
        if self.crowd or sample.crowd is None:
            return sample
        kept = ~sample.crowd
        some = {name: getattr(sample, name) for name in ("boxes", "labels", "masks", "keypoints")}
        return replace(sample, crowd=None, **{name: v[kept] for name, v in some.items() if v is not None})


def painted(splits: Splits, stuff: bool = True) -> Splits:
    """The same splits with maps; `background` is the first class of theirs, unless the names are to be the objects'."""
    parts: list[Any] = [splits.train, splits.validation, splits.test]
    train, validation, test = (Painted(part.part(range(len(part)))) for part in parts)
    train.crowd = False
    return Splits(train, validation, test, ["background"] * stuff + (splits.class_names or []))


def paint(sample: Sample) -> Sample:
    """The sample with its maps. Raises ValueError where it has no masks."""
    if sample.masks is None or sample.labels is None:
        raise ValueError("sample.masks, sample.labels: expected both to paint maps of, got None")
    order = sample.masks.flatten(1).sum(1).argsort(descending=True, stable=True)
    if sample.crowd is not None:
        order = torch.cat([order[sample.crowd[order]], order[~sample.crowd[order]]])  # crowd regions lie behind
    panoptic = torch.zeros(sample.masks.shape[1:], dtype=torch.int64)
    for k in order.tolist():
        panoptic[sample.masks[k]] = k + 1
    classes = sample.labels + 1 if sample.crowd is None else torch.where(sample.crowd, IGNORE, sample.labels + 1)
    semantic = torch.cat([torch.zeros(1, dtype=torch.int64), classes])[panoptic]
    return replace(sample, semantic=semantic, panoptic=panoptic * (semantic != IGNORE))
