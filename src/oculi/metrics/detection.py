r"""COCO's scores of boxes, masks and keypoints: average precision and recall, the twelve numbers, curves.

    mAP  = mean over classes and IoU thresholds 0.50, 0.55, ..., 0.95 of the average precision (`average_precision.py`)
    AR@n = mean over classes and IoU thresholds of the recall with the n best detections per picture and class

Detections match as `greedy_matching.py` says. Crowd regions and objects outside the range of areas are ignored: they are
not missed when not found, and what lies on them is not false (a crowd region by intersection over the detection's area).
Every number equals pycocotools', ties included; what is undefined is NaN here and -1 there.

Lin et al.: Microsoft COCO, 2014, arXiv:1405.0312.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from oculi.metrics.average_precision import RECALLS, curves, eleven_point, interpolated, voc
from oculi.metrics.greedy_matching import greedy
from oculi.metrics.instances import Objects, gather, group_of, near_pairs, overlap_of, ranked
from oculi.predictions import Detections

EVERYTHING = (0.0, 1e10)
COCO_AREAS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
THRESHOLDS = tuple(float(t) for t in np.linspace(0.5, 0.95, 10))


@dataclass
class CocoScores:
    """Precision and recall for every threshold, recall level, class, range of areas (the first: all) and `most`.

    score: that of the detection with which each recall level is reached, 0 where it is not.
    """

    precision: Float[Tensor, "thresholds 101 classes areas most"]
    recall: Float[Tensor, "thresholds classes areas most"]
    score: Float[Tensor, "thresholds 101 classes areas most"]
    thresholds: tuple[float, ...]
    areas: tuple[str, ...]
    most: tuple[int, ...]

    def average_precision(self, threshold: float | None = None, area: str = "all") -> float:
        """Mean over recall levels, classes that occur and thresholds (or at one of them); NaN without any object."""
        return _mean(self.precision[self._at(threshold)][..., self._area(area), -1])

    def average_recall(self, most: int | None = None, area: str = "all", threshold: float | None = None) -> float:
        """Mean over classes and thresholds (or at one of them) with at most `most` detections per picture and class."""
        if most is not None and most not in self.most:
            raise ValueError(f"most: expected one of {self.most}, got {most}")
        which = len(self.most) - 1 if most is None else self.most.index(most)
        return _mean(self.recall[self._at(threshold)][..., self._area(area), which])

    def per_class(self, threshold: float | None = None, area: str = "all") -> Float[Tensor, " classes"]:
        """The average precision of each class; NaN for one without objects."""
        return self.precision[self._at(threshold)][..., self._area(area), -1].mean((0, 1))

    def curve(
        self, label: int, threshold: float = 0.5, area: str = "all"
    ) -> tuple[Float[Tensor, " 101"], Float[Tensor, " 101"], Float[Tensor, " 101"]]:
        """Of one class: recall levels, the interpolated precision at each, and the score from which on it is reached."""
        if not 0 <= label < self.precision.shape[2]:
            raise ValueError(f"label: expected 0..{self.precision.shape[2] - 1}, got {label}")
        at = (self._at(threshold)[0], slice(None), label, self._area(area), -1)
        return RECALLS, self.precision[at], self.score[at]

    def summary(self) -> dict[str, float]:
        """COCO's table: AP, AP50, AP75, AP of each range of areas, AR@n for each of `most`, AR of each range.

        With a single `most`, as for keypoints, AR, AR50 and AR75 stand for AR@n.
        """
        halves = [t for t in (0.5, 0.75) if t in self.thresholds]
        table = {"AP": self.average_precision()}
        table |= {f"AP{t * 100:.0f}": self.average_precision(t) for t in halves}
        table |= {f"AP_{name}": self.average_precision(area=name) for name in self.areas[1:]}
        if len(self.most) == 1:
            table["AR"] = self.average_recall()
            table |= {f"AR{t * 100:.0f}": self.average_recall(threshold=t) for t in halves}
        else:
            table |= {f"AR@{n}": self.average_recall(n) for n in self.most}
        return table | {f"AR_{name}": self.average_recall(area=name) for name in self.areas[1:]}

    def _at(self, threshold: float | None) -> list[int]:
        if threshold is None:
            return list(range(len(self.thresholds)))
        if threshold not in self.thresholds:
            raise ValueError(f"threshold: expected one of {self.thresholds}, got {threshold}")
        return [self.thresholds.index(threshold)]

    def _area(self, area: str) -> int:
        if area not in self.areas:
            raise ValueError(f"area: expected one of {', '.join(self.areas)}, got {area!r}")
        return self.areas.index(area)


def _mean(values: Tensor) -> float:
    known = values[~values.isnan()]
    return float(known.mean()) if known.numel() else float("nan")


def coco(
    predictions: Sequence[Detections],
    truths: Sequence[Objects],
    classes: int = 0,
    areas: dict[str, tuple[float, float]] | None = None,
    most: Sequence[int] = (),
    thresholds: Sequence[float] = THRESHOLDS,
    by: str = "boxes",
    sigmas: Sequence[float] | None = None,
) -> CocoScores:
    """Score the detections of each picture against its objects.

    classes: their number (0: as many as occur); areas: ranges by name in square pixels, both ends included (default:
    COCO's, for pictures of some 500 pixels); most: detections per picture and class (default: 1, 10, 100; 20 for
    keypoints); by: overlap of boxes, masks or keypoints; sigmas: of the keypoints, where they are not COCO's 17.
    """
    if areas is None:
        areas = {name: area for name, area in COCO_AREAS.items() if by != "keypoints" or name != "small"}
    most = tuple(sorted(int(n) for n in most)) or ((20,) if by == "keypoints" else (1, 10, 100))
    if most[0] < 1 or not thresholds:
        raise ValueError(f"most, thresholds: expected at least one, positive, got {most} and {tuple(thresholds)}")
    found, real = gather(predictions, truths, by)
    classes = classes or 1 + max((int(x.label.max()) for x in (found, real) if len(x)), default=-1)
    for name, one in (("predictions", found), ("truths", real)):
        if len(one) and not 0 <= int(one.label.min()) <= int(one.label.max()) < classes:
            raise ValueError(f"{name}: expected labels 0..{classes - 1}, got {np.unique(one.label).tolist()}")
    found, rank = ranked(found, most[-1])
    low, high = np.array([EVERYTHING, *areas.values()], dtype=np.float64).T
    outside = [(x.area[:, None] < low) | (x.area[:, None] > high) for x in (found, real)]
    ignored = outside[1] | real.ignored[:, None]
    levels = np.array(thresholds, dtype=np.float64)
    group = group_of(found)
    near = near_pairs(group, group_of(real), overlap_of(found, real, sigmas), min(levels.min(), 1 - 1e-10))
    matches = greedy(*near, group, real.crowd, ignored, levels)
    objects = np.stack([np.bincount(real.label[~column], minlength=classes) for column in ignored.T], 1)
    precision, score, recall = (
        torch.from_numpy(values).unflatten(2, (len(levels), len(low)))
        for values in curves(found, rank, outside[0], matches, objects, most)
    )
    order = (2, 4, 0, 3, 1)  # classes, most, thresholds, ranges, levels -> thresholds, levels, classes, ranges, most
    return CocoScores(
        precision.permute(order), recall.permute(2, 0, 3, 1), score.permute(order),
        tuple(float(t) for t in thresholds), ("all", *areas), most,
    )  # fmt: skip


def found_objects(
    predictions: Sequence[Detections], truths: Sequence[Objects], threshold: float = 0.5, least: float = 0.3
) -> list[Bool[Tensor, " n"]]:
    """Which objects of each picture some detection of score `least` or more takes at IoU `threshold`: for slices."""
    found, real = gather(predictions, truths)
    found, _ = ranked(found.pick(found.score >= least), max(1, len(found)))
    group = group_of(found)
    near = near_pairs(group, group_of(real), overlap_of(found, real), threshold)
    taken = greedy(*near, group, real.crowd, real.crowd[:, None], np.array([threshold])).taken[:, 0]
    return list(torch.from_numpy(taken).split([len(t.labels) for t in truths]))


__all__ = [
    "COCO_AREAS", "RECALLS", "THRESHOLDS", "CocoScores", "Objects", "coco", "eleven_point", "found_objects",
    "interpolated", "voc",
]  # fmt: skip
