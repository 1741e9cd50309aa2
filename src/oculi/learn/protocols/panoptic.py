r"""Panoptic segmentation: quality of the segments, things and stuff apart, and mean IoU of the classes of their pixels.

Stuff are the classes of the pixels that belong to no object of the data; in the World that is the background alone.
"""

from __future__ import annotations

import math
from typing import cast

import torch

from oculi.data.datasets import Dataset, Splits, batches
from oculi.data.task_taxonomy import true_panoptic
from oculi.metrics.panoptic import panoptic_quality
from oculi.metrics.segmentation import intersection_over_union, pixel_confusion
from oculi.predictions import Panoptic
from oculi.system import System, predict
from oculi.types import IGNORE


def score(system: System, splits: Splits, split: str) -> dict[str, float]:
    """pq, sq, rq, the same of things and of stuff (pq_things, ...), miou of the pixels' classes, and pq_<class>.

    Pixels that the answer leaves without a segment are wrong in miou. What is undefined is left out.
    """
    dataset = getattr(splits, split)
    found, truths, stuff = answers(system, dataset)
    classes = 1 + max((int(one.labels.max()) for one in (*found, *truths) if len(one.labels)), default=0)
    quality = panoptic_quality(found, truths, classes)
    counts = torch.zeros(classes + 1, classes + 1, dtype=torch.int64)  # the last: no segment, never true
    for said, true in zip(found, truths, strict=True):
        pixels = said.semantic.masked_fill(said.semantic == IGNORE, classes)
        counts += pixel_confusion(pixels, true.semantic, classes + 1)
    names = list(splits.class_names or map(str, range(classes)))
    if (
        splits.class_names and len(dataset) and dataset[0].labels is not None
    ):  # names of objects, background not among them
        names.insert(0, "background")
    scores = quality.summary(sorted(stuff))
    scores["miou"] = float(intersection_over_union(counts)[:classes].nanmean())
    scores |= {f"pq_{names[k] if k < len(names) else k}": v for k, v in enumerate(quality.quality().tolist())}
    return {name: value for name, value in scores.items() if not math.isnan(value)}


def answers(system: System, dataset: Dataset) -> tuple[list[Panoptic], list[Panoptic], set[int]]:
    """What the system says about each picture, what is there, and the classes of stuff."""
    found: list[Panoptic] = []
    truths: list[Panoptic] = []
    stuff: set[int] = set()
    for batch in batches(dataset, 16):
        if batch.panoptic is None or (batch.labels is None and batch.semantic is None):
            raise ValueError("dataset: its samples have no panoptic map, or neither labels nor a semantic map")
        found += [cast(Panoptic, answer.cpu()) for answer in predict(system, batch)]
        count = len(batch.panoptic)
        labels = batch.labels if batch.labels is not None else [None] * count
        semantic = batch.semantic if batch.semantic is not None else [None] * count
        for maps in zip(batch.panoptic, labels, semantic, strict=True):
            one = true_panoptic(*maps)
            truths.append(one)
            stuff |= set(one.semantic[maps[0] == 0].unique().tolist()) - {IGNORE}
    return found, truths, stuff
