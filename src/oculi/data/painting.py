r"""Maps out of masks: a class and an object per pixel, where a data set has objects alone.

`semantic` is 0 = background, label + 1 for objects, 255 for crowd regions; `panoptic` is 0, or the object's place + 1.
Where masks lie over each other the smaller one is in front.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from oculi.data.datasets import Dataset, Splits
from oculi.types import IGNORE, Sample


class Painted:
    """A data set with masks whose samples have maps too."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return paint(self.dataset[index])


def painted(splits: Splits) -> Splits:
    """The same splits with maps; `background` is the first class of theirs."""
    parts = [Painted(part) for part in (splits.train, splits.validation, splits.test)]
    return Splits(*parts, ["background", *(splits.class_names or [])])


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
