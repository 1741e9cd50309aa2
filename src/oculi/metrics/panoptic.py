r"""Panoptic quality: how well a map of segments, things and stuff alike, tells what is where.

    PQ = Σ IoU(matched) / (TP + FP / 2 + FN / 2) = SQ RQ
    SQ = Σ IoU(matched) / TP                     RQ = TP / (TP + FP / 2 + FN / 2)

A segment matches the true segment of its class with which its IoU is above 1/2; as segments do not overlap there is at
most one. Pixels without a true segment (void) do not count: they are left out of the unions, and a segment of which more
than half lies there is not false. Averages go over the classes that occur in the truth or the answer.

Kirillov et al.: Panoptic Segmentation, 2018, arXiv:1801.00868.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oculi.predictions import Panoptic


@dataclass
class PanopticScores:
    """Of each class: the sum of the IoU of matched segments, how many matched, were false and were missed."""

    overlap: Float[Tensor, " classes"]
    matched: Int[Tensor, " classes"]
    false: Int[Tensor, " classes"]
    missed: Int[Tensor, " classes"]

    def quality(self) -> Float[Tensor, " classes"]:
        """PQ of each class; NaN for one that does not occur.

        >>> one = [torch.tensor([n]) for n in (2, 1, 1)]
        >>> PanopticScores(torch.tensor([0.8 + 0.6]), *one).quality()
        tensor([0.4667])
        """
        return self.overlap / (self.matched + (self.false + self.missed) / 2)

    def recognition(self) -> Float[Tensor, " classes"]:
        """RQ of each class: the F1 score of its segments; NaN for one that does not occur."""
        return self.matched / (self.matched + (self.false + self.missed) / 2)

    def segmentation(self) -> Float[Tensor, " classes"]:
        """SQ of each class: mean IoU of matched segments; 0 where none matched, NaN for a class that does not occur."""
        share = self.overlap / self.matched.clamp_min(1)
        return torch.where(self.matched + self.false + self.missed > 0, share, torch.nan)

    def summary(self, stuff: Collection[int] = ()) -> dict[str, float]:
        """pq, sq and rq over all classes, and, where there are classes of `stuff`, of things and of stuff alone."""
        kinds = torch.tensor([k in stuff for k in range(len(self.overlap))], dtype=torch.bool)
        groups = {"": torch.ones_like(kinds)} | ({"_things": ~kinds, "_stuff": kinds} if len(stuff) else {})
        values = {"pq": self.quality(), "sq": self.segmentation(), "rq": self.recognition()}
        return {name + end: float(v[group].nanmean()) for end, group in groups.items() for name, v in values.items()}


def panoptic_quality(predictions: Sequence[Panoptic], truths: Sequence[Panoptic], classes: int) -> PanopticScores:
    """Score the segments of each picture against the true ones; `scores` are not looked at.

    Raises ValueError for maps of different sizes, segments without a label, and labels beyond `classes`.
    """
    if len(predictions) != len(truths):
        raise ValueError(f"predictions: expected one per truth, {len(truths)}, got {len(predictions)}")
    overlap = torch.zeros(classes, dtype=torch.float64)
    matched, false, missed = torch.zeros(3, classes, dtype=torch.int64)
    for said, true in zip(predictions, truths, strict=True):
        if said.panoptic.shape != true.panoptic.shape:
            shapes = tuple(true.panoptic.shape), tuple(said.panoptic.shape)
            raise ValueError(f"predictions: expected a map of the truth's shape {shapes[0]}, got {shapes[1]}")
        one, two = _checked("predictions", said, classes), _checked("truths", true, classes)
        rows, columns = len(two[1]) + 1, len(one[1]) + 1
        shared = torch.bincount(two[0] * columns + one[0], minlength=rows * columns).reshape(rows, columns)
        known = shared[1:].sum(0)  # pixels of each answered segment that are not void
        inner = shared[1:, 1:].double()
        iou = inner / (shared[1:].sum(1)[:, None] + known[1:] - inner).clamp_min(1)
        match = (iou > 0.5) & (two[1][:, None] == one[1])
        overlap.index_add_(0, two[1], torch.where(match, iou, 0.0).sum(1))
        matched += torch.bincount(two[1][match.any(1)], minlength=classes)
        there = shared[1:].sum(1) > 0
        missed += torch.bincount(two[1][there & ~match.any(1)], minlength=classes)
        counted = (known[1:] > 0) & (known[1:] * 2 >= shared[:, 1:].sum(0))
        false += torch.bincount(one[1][counted & ~match.any(0)], minlength=classes)
    return PanopticScores(overlap, matched, false, missed)


def _checked(name: str, one: Panoptic, classes: int) -> tuple[Tensor, Tensor]:
    segments, labels = one.panoptic.detach().cpu().flatten().long(), one.labels.detach().cpu().long()
    if segments.numel() and not 0 <= int(segments.min()) <= int(segments.max()) <= len(labels):
        low, high = int(segments.min()), int(segments.max())
        raise ValueError(f"{name}: expected segments 0..{len(labels)}, one label each, got {low}..{high}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"{name}: expected classes 0..{classes - 1}, got {labels.tolist()}")
    return segments, labels
