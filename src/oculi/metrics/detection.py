r"""Average precision of detections, as COCO and VOC count it.

    precision(r) = largest precision at a recall of at least r           recall = found objects / objects
    AP           = mean of precision(r) over r = 0, 0.01, ..., 1         mAP = mean over classes (and IoU thresholds)
    AR@n         = mean over classes and IoU thresholds of the recall with the n best detections per picture and class

A detection, best score first, takes the free object of its class and picture with the largest IoU of at least the
threshold; what takes nothing is false. Crowd regions and objects outside the range of areas are ignored: they are not
missed when not found, and what lies on them is not false (a crowd region by intersection over the detection's area).
Every number equals pycocotools', ties included; what is undefined is NaN here and -1 there.

VOC (up to 2009) averages precision(r) over r = 0, 0.1, ..., 1 at IoU 0.5, and a detection may only take the object
that it overlaps most: a second detection of one object is false.

Lin et al.: Microsoft COCO, 2014, arXiv:1405.0312. Everingham et al.: The Pascal VOC Challenge, 2010.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oculi.predictions import Detections

EVERYTHING = (0.0, 1e10)
COCO_AREAS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
THRESHOLDS = tuple(float(t) for t in np.linspace(0.5, 0.95, 10))
RECALLS = torch.from_numpy(np.linspace(0, 1, 101))
GROUPS_AT_ONCE = 1024


@dataclass
class Objects:
    """What is truly in one picture. `area` is in square pixels, that of the boxes (or masks) unless given."""

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    crowd: Bool[Tensor, " n"] | None = None
    area: Float[Tensor, " n"] | None = None
    masks: Bool[Tensor, "n height width"] | None = None


@dataclass
class CocoScores:
    """Precision and recall for every threshold, recall level, class, range of areas (the first: all) and `most`."""

    precision: Float[Tensor, "thresholds 101 classes areas most"]
    recall: Float[Tensor, "thresholds classes areas most"]
    thresholds: tuple[float, ...]
    areas: tuple[str, ...]
    most: tuple[int, ...]

    def average_precision(self, threshold: float | None = None, area: str = "all") -> float:
        """Mean over recall levels, classes that occur and thresholds (or at one of them); NaN without any object."""
        return _mean(self.precision[self._at(threshold)][..., self.areas.index(area), -1])

    def average_recall(self, most: int | None = None, area: str = "all") -> float:
        """Mean over classes and thresholds with at most `most` detections per picture and class."""
        which = len(self.most) - 1 if most is None else self.most.index(most)
        return _mean(self.recall[..., self.areas.index(area), which])

    def per_class(self, threshold: float | None = None) -> Float[Tensor, " classes"]:
        """The average precision of each class; NaN for one without objects."""
        return self.precision[self._at(threshold)][..., 0, -1].mean((0, 1))

    def summary(self) -> dict[str, float]:
        """COCO's table: AP, AP50, AP75, AP of each range of areas, AR@n for each of `most`, AR of each range."""
        table = {"AP": self.average_precision()}
        for threshold in (0.5, 0.75):
            if threshold in self.thresholds:
                table[f"AP{threshold * 100:.0f}"] = self.average_precision(threshold)
        table |= {f"AP_{name}": self.average_precision(area=name) for name in self.areas[1:]}
        table |= {f"AR@{n}": self.average_recall(n) for n in self.most}
        return table | {f"AR_{name}": self.average_recall(area=name) for name in self.areas[1:]}

    def _at(self, threshold: float | None) -> list[int]:
        if threshold is None:
            return list(range(len(self.thresholds)))
        if threshold not in self.thresholds:
            raise ValueError(f"threshold: expected one of {self.thresholds}, got {threshold}")
        return [self.thresholds.index(threshold)]


def _mean(values: Tensor) -> float:
    known = values[~values.isnan()]
    return float(known.mean()) if known.numel() else float("nan")


def coco(
    predictions: Sequence[Detections],
    truths: Sequence[Objects],
    classes: int = 0,
    areas: dict[str, tuple[float, float]] | None = None,
    most: Sequence[int] = (1, 10, 100),
    thresholds: Sequence[float] = THRESHOLDS,
    by: str = "boxes",
) -> CocoScores:
    """Score the detections of each picture against its objects.

    classes: their number (0: as many as occur); areas: ranges by name in square pixels, both ends included (default:
    COCO's, for pictures of some 500 pixels); most: detections per picture and class; by: overlap of boxes or masks.
    """
    areas = COCO_AREAS if areas is None else areas
    most = tuple(sorted(int(n) for n in most))
    if not most or most[0] < 1 or not thresholds:
        raise ValueError(f"most, thresholds: expected at least one, positive, got {most} and {tuple(thresholds)}")
    found, real = _flatten(predictions, truths, by)
    classes = classes or 1 + max((int(x.label.max()) for x in (found, real) if len(x.label)), default=-1)
    for name, one in (("predictions", found), ("truths", real)):
        if len(one.label) and not 0 <= int(one.label.min()) <= int(one.label.max()) < classes:
            raise ValueError(f"{name}: expected labels 0..{classes - 1}, got {one.label.unique().tolist()}")
    found, rank = _ranked(found, most[-1])
    ranges = torch.tensor([EVERYTHING, *areas.values()], dtype=torch.float64)
    outside = [(x.area[:, None] < ranges[:, 0]) | (x.area[:, None] > ranges[:, 1]) for x in (found, real)]
    ignored = outside[1] | real.crowd[:, None]
    levels = torch.tensor([float(t) for t in thresholds], dtype=torch.float64)
    hit, excused, _ = _match(found, real, ignored, levels)
    excused |= ~hit & outside[0][:, None]
    precision, recall = _curves(found, rank, hit, excused, real.label[:, None], ~ignored, classes, most)
    return CocoScores(precision, recall, tuple(float(t) for t in thresholds), ("all", *areas), most)


def found_objects(
    predictions: Sequence[Detections], truths: Sequence[Objects], threshold: float = 0.5, least: float = 0.3
) -> list[Bool[Tensor, " n"]]:
    """Which objects of each picture some detection of score `least` or more takes at IoU `threshold`: for slices."""
    found, real = _flatten(predictions, truths, "boxes")
    found, _ = _ranked(found.pick(found.score >= least), max(1, len(found.label)))
    _, _, taken = _match(found, real, real.crowd[:, None], torch.tensor([threshold], dtype=torch.float64))
    return list(taken[:, 0, 0].split([len(t.labels) for t in truths]))


@dataclass
class _Flat:
    """The detections or objects of all pictures, one after the other."""

    image: Tensor
    label: Tensor
    boxes: Tensor
    area: Tensor
    score: Tensor
    crowd: Tensor
    masks: Tensor | None

    def pick(self, index: Tensor) -> _Flat:
        picked: dict[str, Any] = {name: None if v is None else v[index] for name, v in vars(self).items()}
        return _Flat(**picked)

    @property
    def group(self) -> Tensor:
        """One number per class and picture, class first."""
        return self.label * (1 << 40) + self.image


def _flatten(predictions: Sequence[Detections], truths: Sequence[Objects], by: str) -> tuple[_Flat, _Flat]:
    if len(predictions) != len(truths):
        raise ValueError(f"predictions: expected one per truth, {len(truths)}, got {len(predictions)}")
    if by not in ("boxes", "masks"):
        raise ValueError(f"by: expected boxes or masks, got {by!r}")
    flat = []
    sides: dict[str, Sequence[Detections | Objects]] = {"predictions": predictions, "truths": truths}
    for name, records in sides.items():
        image = torch.cat([torch.full((len(r.labels),), i) for i, r in enumerate(records)] or [torch.empty(0).long()])
        label = _joined([r.labels for r in records], (0,)).long()
        boxes = _joined([r.boxes for r in records], (0, 4)).double()
        masks = None
        if by == "masks":
            if any(r.masks is None for r in records):
                raise ValueError(f"{name}: expected masks in each record to score by masks")
            masks = _stacked([r.masks for r in records if r.masks is not None])
        size = (boxes[:, 2:] - boxes[:, :2]).prod(1) if masks is None else masks.sum(1).double()
        flat.append(_Flat(image, label, boxes, size, torch.zeros(len(label)), torch.zeros(len(label)).bool(), masks))
    found, real = flat
    found.score = _joined([p.scores for p in predictions], (0,)).double()
    if not bool(torch.isfinite(found.score).all()):
        raise ValueError("predictions: their scores hold NaN or infinity")
    real.crowd = _joined([torch.zeros(len(t.labels)) if t.crowd is None else t.crowd for t in truths], (0,)).bool()
    given = [torch.full((len(t.labels),), torch.nan) if t.area is None else t.area for t in truths]
    given_area = _joined(given, (0,)).double()
    real.area = torch.where(given_area.isnan(), real.area, given_area)
    for name, one in (("predictions", found), ("truths", real)):
        lengths = {len(value) for value in vars(one).values() if value is not None}
        if len(lengths) > 1:
            raise ValueError(f"{name}: expected as many boxes as labels, scores, crowd and area; got {sorted(lengths)}")
    return found, real


def _joined(parts: Sequence[Tensor], empty: tuple[int, ...]) -> Tensor:
    return torch.cat([part.detach().cpu() for part in parts]) if parts else torch.empty(empty)


def _stacked(masks: list[Tensor]) -> Tensor:
    """All masks `n x pixels`; those of smaller pictures are filled up."""
    most = max((m[0].numel() for m in masks if len(m)), default=0)
    filled = [
        torch.nn.functional.pad(m.detach().cpu().flatten(1).bool(), (0, most - m[0].numel())) for m in masks if len(m)
    ]
    return torch.cat(filled) if filled else torch.zeros(0, most, dtype=torch.bool)


def _ranked(found: _Flat, most: int) -> tuple[_Flat, Tensor]:
    """Detections by class, picture and falling score, the `most` best per class and picture, and their rank there."""
    found = found.pick(torch.argsort(-found.score, stable=True))
    found = found.pick(torch.argsort(found.group, stable=True))
    rank = _rank(found.group)
    return found.pick(rank < most), rank[rank < most]


def _rank(group: Tensor) -> Tensor:
    """The place of each element within its group; `group` is sorted."""
    return torch.arange(len(group)) - torch.searchsorted(group, group)


def _match(found: _Flat, real: _Flat, ignored: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of detections: took an object, took one that is ignored; of objects: was taken; each `x thresholds x areas`."""
    hit = torch.zeros(len(found.label), len(levels), ignored.shape[1], dtype=torch.bool)
    excused, taken = hit.clone(), hit.new_zeros(len(real.label), *hit.shape[1:])
    order = torch.argsort(real.group, stable=True)
    groups, sizes = real.group[order].unique_consecutive(return_counts=True)
    start = sizes.cumsum(0) - sizes
    first, last = torch.searchsorted(found.group, groups), torch.searchsorted(found.group, groups, right=True)
    both = (last > first).nonzero()[:, 0]
    if not len(both):
        return hit, excused, taken
    for part in both[torch.argsort(sizes[both])].split(GROUPS_AT_ONCE):
        here = torch.arange(int(sizes[part].max()))
        there = torch.arange(int((last - first)[part].max()))
        objects, has_object = _padded(start[part], sizes[part], here)
        said, has_said = _padded(first[part], (last - first)[part], there)
        n, d, g = (has_said[:, :, None] & has_object[:, None]).nonzero().unbind(1)
        overlap = torch.full((len(part), len(there), len(here)), -1.0, dtype=torch.float64)
        overlap[n, d, g] = _overlap(found, said[n, d], real, order[objects[n, g]])
        free = order[objects]
        took, ignoring, gone = _greedy(overlap, real.crowd[free], ignored[free].transpose(1, 2), levels)
        hit[said[has_said]], excused[said[has_said]] = took[has_said], ignoring[has_said]
        taken[free[has_object]] = gone.permute(0, 3, 1, 2)[has_object]
    return hit, excused, taken


def _padded(start: Tensor, count: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Indices `groups x largest group`, the first of the group where there is none, and where there is one."""
    inside = place < count[:, None]
    return torch.where(inside, start[:, None] + place, start[:, None]), inside


def _overlap(found: _Flat, i: Tensor, real: _Flat, j: Tensor) -> Float[Tensor, " pairs"]:
    """IoU of detections i and objects j; for a crowd region, the share of the detection that lies in it."""
    if found.masks is not None and real.masks is not None:
        pairs = zip(i.split(4096), j.split(4096), strict=True)
        shared = torch.cat([(found.masks[a] & real.masks[b]).sum(1) for a, b in pairs]).double()
        one, two = found.area[i], real.masks.sum(1).double()[j]
    else:
        a, b = found.boxes[i], real.boxes[j]
        shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_min(0).prod(1)
        one, two = ((x[:, 2:] - x[:, :2]).prod(1) for x in (a, b))
    union = torch.where(real.crowd[j], one, one + two - shared)
    return torch.where(shared > 0, shared / union, 0.0)


def _greedy(
    overlap: Float[Tensor, "groups found real"],
    crowd: Bool[Tensor, "groups real"],
    ignored: Bool[Tensor, "groups areas real"],
    levels: Float[Tensor, " thresholds"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Detections in turn, all groups at once; a tie goes to the later object, and ignored objects are a last resort."""
    groups, found, real = overlap.shape
    areas = ignored.shape[1]
    place = torch.arange(real)
    least = levels.clamp_max(1 - 1e-10)[:, None, None]
    taken = torch.zeros(groups, len(levels), areas, real, dtype=torch.bool)
    crowd, ignored = crowd[:, None, None], ignored[:, None]
    hit, excused = torch.zeros(2, groups, found, len(levels), areas, dtype=torch.bool)
    for turn in range(found):
        value = overlap[:, turn, None, None]
        open_ = (value >= least) & (~taken | crowd)
        wanted = open_ & ~ignored
        open_ = torch.where(wanted.any(-1, keepdim=True), wanted, open_)
        value = torch.where(open_, value, -2.0)
        chosen = torch.where(open_ & (value == value.amax(-1, keepdim=True)), place, -1).amax(-1, keepdim=True)
        mine = place == chosen
        taken |= mine
        hit[:, turn], excused[:, turn] = (chosen >= 0)[..., 0], (mine & ignored).any(-1)
    return hit, excused, taken


def _curves(
    found: _Flat, rank: Tensor, hit: Tensor, excused: Tensor, label: Tensor, counted: Tensor, classes: int,
    most: tuple[int, ...],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Interpolated precision at every recall level and the largest recall."""
    levels, areas = hit.shape[1:]
    precision = torch.full((levels, len(RECALLS), classes, areas, len(most)), torch.nan, dtype=torch.float64)
    recall = torch.full((levels, classes, areas, len(most)), torch.nan, dtype=torch.float64)
    for k in range(classes):
        objects = (counted & (label == k)).sum(0)
        occurs = objects > 0
        for m, n in enumerate(most):
            mine = ((found.label == k) & (rank < n)).nonzero()[:, 0]
            mine = mine[torch.argsort(-found.score[mine], stable=True)]
            right = (hit[mine] & ~excused[mine]).permute(1, 2, 0).cumsum(-1).double()
            wrong = (~hit[mine] & ~excused[mine]).permute(1, 2, 0).cumsum(-1).double()
            share = right / objects.clamp_min(1)[:, None]
            at = interpolated(share, right / (wrong + right + np.spacing(1)), RECALLS)
            largest = share[..., -1] if len(mine) else torch.zeros(levels, areas, dtype=torch.float64)
            precision[:, :, k, :, m] = torch.where(occurs[:, None], at, torch.nan).transpose(1, 2)
            recall[:, k, :, m] = torch.where(occurs, largest, torch.nan)
    return precision, recall


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


def voc(
    predictions: Sequence[Detections], truths: Sequence[Objects], classes: int = 0, threshold: float = 0.5
) -> Float[Tensor, " classes"]:
    """VOC's 11-point average precision of each class, NaN for one without objects; crowd stands for `difficult`.

    mAP is its `nanmean()`. Boxes are continuous here; the development kit counts the last pixel as a whole one.
    """
    found, real = _flatten(predictions, truths, "boxes")
    classes = classes or 1 + max((int(x.label.max()) for x in (found, real) if len(x.label)), default=-1)
    found, _ = _ranked(found, max(1, len(found.label)))
    found = found.pick(torch.argsort(-found.score, stable=True))
    hit, excused = torch.zeros(2, len(found.label), dtype=torch.bool)
    if len(found.label) and len(real.label):
        same = found.group[:, None] == real.group
        i, j = same.nonzero().unbind(1)
        overlap = torch.full(same.shape, -1.0, dtype=torch.float64)
        overlap[i, j] = _overlap(found, i, _plain(real), j)
        value, chosen = overlap.max(1)
        near = (value >= threshold) & same.any(1)
        excused = near & real.crowd[chosen]
        earlier = torch.where(near, chosen, -1 - torch.arange(len(chosen)))
        hit = near & ~excused & _first_of(earlier)
    each = torch.full((classes,), torch.nan, dtype=torch.float64)
    for k in range(classes):
        objects, mine = int((~real.crowd & (real.label == k)).sum()), (found.label == k) & ~excused
        if objects:
            right = hit[mine].cumsum(0).double()
            each[k] = eleven_point(right / objects, right / torch.arange(1, len(right) + 1))
    return each


def _plain(real: _Flat) -> _Flat:
    return _Flat(**{**vars(real), "crowd": torch.zeros_like(real.crowd)})


def _first_of(key: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Which elements are the first with their key."""
    order = torch.argsort(key, stable=True)
    first = torch.empty(len(key), dtype=torch.bool)
    first[order] = _rank(key[order]) == 0
    return first
