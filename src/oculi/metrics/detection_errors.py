r"""What a detector does wrong, how often, and the average precision that each kind of error costs.

A detection that takes no object at IoU 0.5 is, at its largest IoU with an object of its own class (s) and of others (o),

    localisation     0.1 <= s < 0.5      else classification  o >= 0.5      else duplicate  s >= 0.5
    background       s, o < 0.1          else both            (wrong class and badly placed)

and an object that nothing takes is missed unless a classification or localisation error means it. The cost of a kind is
AP50 after mending it less AP50 before: of the localisation or classification errors that mean one free object the best
becomes right and the others go, false detections of the other kinds go, and missed objects are no longer asked for.
Crowd regions are ignored as in `detection.py`.

Bolya et al.: TIDE, 2020, arXiv:2008.08115.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from oculi.metrics.average_precision import RECALLS, interpolated
from oculi.metrics.detection import Objects
from oculi.metrics.greedy_matching import greedy
from oculi.metrics.instances import Array, Instances, gather, group_of, near_pairs, overlap_of, ranked
from oculi.predictions import Detections

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
MEND = ("classification", "localisation")


@dataclass
class DetectionErrors:
    """counts and costs (in AP50) by kind; ap50 as it is; one row `picture, detection, kind` per false detection.

    confusion: `true said`, the last row and column standing for nothing: false detections and missed objects.
    """

    ap50: float
    counts: dict[str, int]
    costs: dict[str, float]
    false: Int[Tensor, "n 3"]
    confusion: Int[Tensor, "true said"]


def detection_errors(
    predictions: Sequence[Detections],
    truths: Sequence[Objects],
    classes: int = 0,
    by: str = "boxes",
    threshold: float = 0.5,
    background: float = 0.1,
    least: float = 0.3,
) -> DetectionErrors:
    """Sort every error of the detections (100 per class and picture) into its kind.

    threshold, background: IoU from which on a detection is right, and below which it means no object; by: overlap of
    boxes or masks; least: score of the detections that the confusion matrix counts.
    """
    if not 0 < background < threshold <= 1:
        raise ValueError(
            f"background, threshold: expected 0 < background < threshold <= 1, got {background}, {threshold}"
        )
    if by == "keypoints":
        raise ValueError("by: expected boxes or masks, got 'keypoints'")
    found, real = gather(predictions, truths, by)
    classes = classes or 1 + max((int(x.label.max()) for x in (found, real) if len(x)), default=-1)
    for name, one in (("predictions", found), ("truths", real)):
        if len(one) and not 0 <= int(one.label.min()) <= int(one.label.max()) < classes:
            raise ValueError(f"{name}: expected labels 0..{classes - 1}, got {np.unique(one.label).tolist()}")
    confusion = _confusion(found, real, classes, threshold, least)
    found, _ = ranked(found, 100)
    hit, excused, taken = _matched(found, real, threshold)
    kind, means = _kinds(found, real, ~hit, threshold, background)
    missed = ~taken & ~real.crowd
    missed[means[np.isin(kind, [KINDS.index(name) for name in MEND])]] = False
    counts = {name: int((kind == number).sum()) for number, name in enumerate(KINDS)} | {"missed": int(missed.sum())}
    objects = np.bincount(real.label[~real.crowd], minlength=classes)
    true, ignored = hit & ~excused, hit & excused
    before, costs = _ap(found.score, found.label, true, ignored, objects), {}
    for number, name in enumerate(KINDS[:-1]):
        label, right = found.label.copy(), true.copy()
        if name in MEND:
            best = _mended(found, kind == number, means, taken)
            label[best], right[best] = real.label[means[best]], True
        costs[name] = _ap(found.score, label, right, ignored | ((kind == number) & ~right), objects) - before
    asked = objects - np.bincount(real.label[missed], minlength=classes)
    costs["missed"] = _ap(found.score, found.label, true, ignored, asked) - before
    rows = np.flatnonzero(kind >= 0)
    table = torch.from_numpy(np.stack([found.image[rows], found.place[rows], kind[rows]], 1))
    return DetectionErrors(before, counts, costs, table, torch.from_numpy(confusion))


def _matched(found: Instances, real: Instances, threshold: float) -> tuple[Array, Array, Array]:
    """Of detections sorted by group: took an object, one to be ignored; of objects: were taken."""
    group = group_of(found)
    near = near_pairs(group, group_of(real), overlap_of(found, real), threshold)
    match = greedy(*near, group, real.crowd, real.ignored[:, None], np.array([threshold]))
    hit, excused = np.zeros((2, len(found)), dtype=bool)
    hit[match.row], excused[match.row] = match.hit[:, 0], match.excused[:, 0]
    return hit, excused, match.taken[:, 0]


def _kinds(found: Instances, real: Instances, wrong: Array, threshold: float, background: float) -> tuple[Array, Array]:
    """The number of each detection's kind of error, -1 for none, and the object that it means (0 if none)."""
    i, j, overlap = near_pairs(found.image, real.image, overlap_of(found, real), background)
    single = ~real.crowd[j]
    i, j, overlap = i[single], j[single], overlap[single]
    alike = found.label[i] == real.label[j]
    (own, mine), (other, theirs) = (_largest(i[x], j[x], overlap[x], len(found)) for x in (alike, ~alike))
    near, called = (own >= background) & (own < threshold), other >= threshold
    answers = [near, called, own >= threshold, np.maximum(own, other) < background]
    names = ("localisation", "classification", "duplicate", "background")
    kind = np.select(answers, [KINDS.index(name) for name in names], KINDS.index("both"))
    return np.where(wrong, kind, -1), np.where(near, mine, theirs)


def _largest(i: Array, j: Array, value: Array, count: int) -> tuple[Array, Array]:
    """The largest value of each i and its j; -1 and 0 where there is none."""
    best, which = np.full(count, -1.0), np.zeros(count, dtype=np.int64)
    order = np.argsort(value, kind="stable")
    best[i[order]], which[i[order]] = value[order], j[order]
    return best, which


def _mended(found: Instances, errors: Array, means: Array, taken: Array) -> Array:
    """Of the errors that mean one free object, the one with the highest score."""
    rows = np.flatnonzero(errors)
    rows = rows[~taken[means[rows]]]
    rows = rows[np.argsort(-found.score[rows], kind="stable")]
    return rows[np.unique(means[rows], return_index=True)[1]]


def _flags(index: Array, count: int) -> Array:
    flags = np.zeros(count, dtype=bool)
    flags[index] = True
    return flags


def _ap(score: Array, label: Array, right: Array, gone: Array, objects: Array) -> float:
    """Mean over the classes with objects of the average precision at 101 recalls; what is `gone` does not count."""
    order = np.argsort(-score, kind="stable")
    order = order[~gone[order]]
    each = []
    for k in np.flatnonzero(objects):
        true = torch.from_numpy(right[order[label[order] == k]].cumsum()).double()
        precision = true / torch.arange(1, len(true) + 1)
        each.append(float(interpolated(true / int(objects[k]), precision, RECALLS).mean()))
    return float(np.mean(each)) if each else float("nan")


def _confusion(found: Instances, real: Instances, classes: int, threshold: float, least: float) -> Array:
    """Matching whatever the class: best score first, each takes the free object with the largest overlap."""
    found = found.pick(found.score >= least)
    plain, said = (replace(one, label=np.zeros_like(one.label)) for one in (real, found))
    order = np.lexsort((-found.score, found.image))
    found, said = found.pick(order), said.pick(order)
    group = group_of(said)
    near = near_pairs(group, group_of(plain), overlap_of(said, plain), threshold)
    match = greedy(*near, group, plain.crowd, plain.crowd[:, None], np.array([threshold]))
    table = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    hit = _flags(match.row[match.hit[:, 0]], len(found))
    np.add.at(table, (classes, found.label[~hit]), 1)
    np.add.at(table, (real.label[~match.taken[:, 0] & ~real.crowd], classes), 1)
    what = match.partner()
    kept = match.hit[:, 0] & ~match.excused[:, 0]
    np.add.at(table, (real.label[what[kept]], found.label[match.row[kept]]), 1)
    return table
