r"""Precision and recall along falling scores, and their average, as COCO and VOC count it.

    precision(r) = largest precision at a recall of at least r           recall = found objects / objects
    COCO: AP = mean of precision(r) over r = 0, 0.01, ..., 1             VOC (up to 2009): over r = 0, 0.1, ..., 1

Precision rises only where an object is found, so the largest precision is that at one of the true detections, and the
curves need to be known there alone: the false ones before it are counted, not visited.

Lin et al.: Microsoft COCO, 2014, arXiv:1405.0312. Everingham et al.: The Pascal VOC Challenge, 2010.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from oculi.metrics.greedy_matching import Matches
from oculi.metrics.instances import Array, Instances, Objects, gather, group_of, near_pairs, overlap_of
from oculi.predictions import Detections

RECALLS = torch.from_numpy(np.linspace(0, 1, 101))


def interpolated(
    recall: Float[Tensor, "*b n"], precision: Float[Tensor, "*b n"], at: Float[Tensor, " r"]
) -> Float[Tensor, "*b r"]:
    """Largest precision at a recall of at least each `at`, 0 where that recall is never reached; `recall` rises."""
    if not recall.shape[-1]:
        return precision.new_zeros(*precision.shape[:-1], len(at))
    best = torch.cat([precision.flip(-1).cummax(-1).values.flip(-1), precision.new_zeros(*precision.shape[:-1], 1)], -1)
    where = torch.searchsorted(recall.contiguous(), at.to(recall).expand(*recall.shape[:-1], -1).contiguous())
    return best.gather(-1, where)


def eleven_point(recall: Float[Tensor, " n"], precision: Float[Tensor, " n"]) -> float:
    """VOC's average precision of one class: interpolated precision averaged over the recalls 0, 0.1, ..., 1.

    >>> round(eleven_point(torch.tensor([0.5, 1.0]), torch.tensor([1.0, 0.5])), 4)
    0.7727
    """
    return float(interpolated(recall.double(), precision.double(), torch.arange(11).double() / 10).mean())


def curves(
    found: Instances, rank: Array, outside: Array, matches: Matches, objects: Array, most: Sequence[int]
) -> tuple[Array, Array, Array]:
    """Precision and score at every recall level, `classes x most x questions x 101`, and the largest recall.

    found: by class, picture and falling score, with its `rank` there; outside: `found x ranges`, which sizes do not
    count; objects: `classes x ranges`, how many are to be found. NaN where there is none; a question is a threshold
    and a range.
    """
    classes, ranges = objects.shape
    questions = matches.hit.shape[1]
    thresholds = questions // ranges
    precision, score = np.full((2, classes, len(most), questions, len(RECALLS)), np.nan)
    recall = np.full((classes, len(most), questions), np.nan)
    needed = _needed(objects)
    order = np.lexsort((-found.score, found.label))
    matched = np.full(len(found), -1)
    matched[matches.row] = np.arange(len(matches.row))
    for m, n in enumerate(most):
        mine = order[rank[order] < n]
        counted = (~outside[mine]).cumsum(0, dtype=np.int32)
        edges = np.searchsorted(found.label[mine], np.arange(classes + 1))
        at = np.flatnonzero(matched[mine] >= 0)
        cuts = np.searchsorted(at, edges)
        for k in range(classes):
            occurs = np.tile(objects[k] > 0, thresholds)
            if not occurs.any():
                continue
            here = at[cuts[k] : cuts[k + 1]]
            row = matched[mine[here]]
            before = counted[here] - (counted[edges[k] - 1] if edges[k] else 0)
            inside = np.tile(~outside[mine[here]], thresholds)
            best, first, most_found = _envelope(
                matches.hit[row],
                matches.excused[row],
                inside,
                np.tile(before, thresholds),
                np.tile(needed[k], (thresholds, 1)),
            )
            scores = np.r_[found.score[mine[here]], 0.0][first]
            scores[:, 0] = found.score[mine[edges[k]]] if edges[k + 1] > edges[k] else 0.0
            precision[k, m, occurs], score[k, m, occurs] = best[occurs], scores[occurs]
            recall[k, m, occurs] = most_found[occurs] / np.tile(objects[k], thresholds)[occurs]
    return precision, score, recall


def _needed(objects: Array) -> Array:
    """How many objects must be found to reach each recall level, in the same floating point as found / objects."""
    count, levels = np.maximum(objects, 1)[..., None], RECALLS.numpy()
    needed = np.ceil(levels * count)
    needed = np.where((needed - 1) / count >= levels, needed - 1, needed)
    return np.where(needed / count < levels, needed + 1, needed).astype(np.int32)


def _envelope(hit: Array, excused: Array, inside: Array, counted: Array, needed: Array) -> tuple[Array, Array, Array]:
    """At each needed number of found objects, of detections `n x questions` that may match, by falling score: the
    largest precision from there on, the place (n where it is not reached), and how many are found at all."""
    true = hit & ~excused
    right = true.cumsum(0, dtype=np.int32)
    wrong = counted - (hit & inside).cumsum(0, dtype=np.int32)
    best = np.zeros((len(hit) + 1, hit.shape[1]))
    np.divide(right, right + wrong + np.spacing(1), out=best[:-1], where=true)
    best = np.maximum.accumulate(best[::-1])[::-1]
    first = torch.searchsorted(torch.from_numpy(right.T.copy()), torch.from_numpy(needed)).numpy()
    return np.take_along_axis(best, first.T, 0).T, first, right[-1] if len(hit) else np.zeros(hit.shape[1])


def voc(
    predictions: Sequence[Detections], truths: Sequence[Objects], classes: int = 0, threshold: float = 0.5
) -> Float[Tensor, " classes"]:
    """VOC's 11-point average precision of each class, NaN for one without objects; crowd stands for `difficult`.

    mAP is its `nanmean()`. A detection may only take the object that it overlaps most: a second detection of one object
    is false. Boxes are continuous here; the development kit counts the last pixel as a whole one.
    """
    found, real = gather(predictions, truths)
    classes = classes or 1 + max((int(x.label.max()) for x in (found, real) if len(x)), default=-1)
    found = found.pick(np.argsort(-found.score, kind="stable"))
    difficult, real.crowd = real.crowd, np.zeros_like(real.crowd)
    i, j, overlap = near_pairs(group_of(found), group_of(real), overlap_of(found, real), threshold)
    best = np.lexsort((j, -overlap, i))
    i, first = np.unique(i[best], return_index=True)
    j = j[best][first]
    excused, hit = np.zeros((2, len(found)), dtype=bool)
    excused[i] = difficult[j]
    i, j = i[~difficult[j]], j[~difficult[j]]
    hit[i[np.unique(j, return_index=True)[1]]] = True
    each = torch.full((classes,), torch.nan, dtype=torch.float64)
    for k in range(classes):
        objects, mine = int((~difficult & (real.label == k)).sum()), (found.label == k) & ~excused
        if objects:
            right = torch.from_numpy(hit[mine].cumsum()).double()
            each[k] = eleven_point(right / objects, right / torch.arange(1, len(right) + 1))
    return each
