r"""The detections and the objects of many pictures in one row, and how much each pair of them overlaps.

    boxes      |A ∩ B| / |A ∪ B|;  for a crowd region B, |A ∩ B| / |A|           masks: the same of pixels
    keypoints  mean over the labelled points of exp(-d² / (2 s² (2 σ)²)),  d: distance, s²: the object's area

The second is object keypoint similarity (OKS). An object without labelled points is ignored; a detection's distance to
it is that to its box, grown by the box's size on every side.

Lin et al.: Microsoft COCO, 2014, arXiv:1405.0312; the constants σ and the keypoint rules are those of its evaluation code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oculi.predictions import Detections

Array = np.ndarray
Overlap = Callable[[Array, Array], Array]
KINDS = ("boxes", "masks", "keypoints")
# nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles: how far two people's marks lie apart
PERSON_SIGMAS: tuple[float, ...] = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089
)  # fmt: skip
PAIRS_AT_ONCE = 1 << 20


@dataclass
class Objects:
    """What is truly in one picture. `area` is in square pixels, that of the boxes (or masks) unless given."""

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    crowd: Bool[Tensor, " n"] | None = None
    area: Float[Tensor, " n"] | None = None
    masks: Bool[Tensor, "n height width"] | None = None
    keypoints: Float[Tensor, "n points 3"] | None = None  # x, y, and 0 for a point that is not labelled


@dataclass
class Instances:
    """Detections or objects of all pictures, one after the other, in numpy's double precision.

    place: the number within the picture; masks: those of each picture; ignored: neither found nor missed.
    """

    image: Array
    place: Array
    label: Array
    boxes: Array
    area: Array
    score: Array
    crowd: Array
    ignored: Array
    keypoints: Array | None
    masks: list[Tensor] | None

    def __len__(self) -> int:
        return len(self.label)

    def pick(self, index: Array) -> Instances:
        """Those at `index`, in its order."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Instances(**{k: v[index] if isinstance(v, np.ndarray) else v for k, v in values.items()})


def gather(
    predictions: Sequence[Detections], truths: Sequence[Objects], by: str = "boxes"
) -> tuple[Instances, Instances]:
    """All detections and all objects. Raises ValueError for records that do not fit each other or what is measured."""
    if len(predictions) != len(truths):
        raise ValueError(f"predictions: expected one per truth, {len(truths)}, got {len(predictions)}")
    if by not in KINDS:
        raise ValueError(f"by: expected {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {by!r}")
    found, real = _in_a_row("predictions", predictions, by), _in_a_row("truths", truths, by)
    found.score = _joined([p.scores for p in predictions], (0,))
    if not np.isfinite(found.score).all():
        raise ValueError("predictions: their scores hold NaN or infinity")
    if any(t.crowd is not None for t in truths):
        crowd = [torch.zeros(len(t.labels)) if t.crowd is None else t.crowd for t in truths]
        real.crowd = _joined(crowd, (0,)) > 0
    if any(t.area is not None for t in truths):
        given = _joined([torch.full((len(t.labels),), torch.nan) if t.area is None else t.area for t in truths], (0,))
        real.area = np.where(np.isnan(given), real.area, given) if len(given) == len(real.area) else given
    real.ignored = real.crowd.copy()
    if found.keypoints is not None and real.keypoints is not None:
        if found.keypoints.shape[1:] != real.keypoints.shape[1:] and len(found) and len(real):
            shapes = [list(one.keypoints.shape[1:]) for one in (real, found) if one.keypoints is not None]
            raise ValueError(f"predictions: expected keypoints `n x {shapes[0]}` as in truths, got `n x {shapes[1]}`")
        low, high = found.keypoints[..., :2].min(1, initial=np.inf), found.keypoints[..., :2].max(1, initial=-np.inf)
        found.area = (high - low).prod(1)
        real.ignored |= ~(real.keypoints[..., 2] > 0).any(1)
    for name, one in (("predictions", found), ("truths", real)):
        lengths = {len(value) for value in vars(one).values() if isinstance(value, np.ndarray)}
        if len(lengths) > 1:
            raise ValueError(f"{name}: expected as many boxes as labels, scores, crowd and area; got {sorted(lengths)}")
    return found, real


def _in_a_row(name: str, records: Sequence[Detections] | Sequence[Objects], by: str) -> Instances:
    counts = np.array([len(record.labels) for record in records], dtype=np.int64)
    image = np.repeat(np.arange(len(records)), counts)
    label = _joined([record.labels for record in records], (0,)).astype(np.int64)
    boxes = _joined([record.boxes for record in records], (0, 4))
    size, keypoints, masks = (boxes[:, 2:] - boxes[:, :2]).prod(1), None, None
    for kind in KINDS[1:]:
        if by == kind and any(getattr(record, kind) is None for record in records):
            raise ValueError(f"{name}: expected {kind} in each record to score by {kind}")
    if by == "keypoints":
        some = [r.keypoints for r in records if r.keypoints is not None and len(r.keypoints)]
        if len({points.shape[1] for points in some}) > 1:
            points_of = sorted({points.shape[1] for points in some})
            raise ValueError(f"{name}: expected as many keypoints in each record, got {points_of}")
        keypoints = _joined(some, (0, 0, 3))
    if by == "masks":
        masks = [r.masks.detach().cpu().flatten(1).bool() for r in records if r.masks is not None]
        size = _joined([m.sum(1) for m in masks], (0,))
    place = np.arange(len(image)) - (counts.cumsum() - counts)[image]
    nothing = np.zeros(len(label), dtype=bool)
    return Instances(image, place, label, boxes, size, np.zeros(len(label)), nothing, nothing, keypoints, masks)


def _joined(parts: Sequence[Tensor], empty: tuple[int, ...]) -> Array:
    return torch.cat([part.detach().cpu() for part in parts]).double().numpy() if parts else np.empty(empty)


def overlap_of(found: Instances, real: Instances, sigmas: Sequence[float] | None = None) -> Overlap:
    """A function of indices `i` of detections and `j` of objects that gives the overlap of each pair.

    sigmas: for keypoints, one per point in units of the object's size; needed unless there are COCO's 17.
    """
    if found.keypoints is not None and real.keypoints is not None:
        spread = _sigmas(real.keypoints.shape[1] if len(real) else found.keypoints.shape[1], sigmas)
        return lambda i, j: _keypoint_similarity(found, real, i, j, spread)
    if found.masks is None or real.masks is None:
        return lambda i, j: _share(_box_intersection(found.boxes[i], real.boxes[j]), found.area[i], *_box(real, j))
    pixels = _joined([m.sum(1) for m in real.masks], (0,))
    widths = np.array([len(m) for m in real.masks], dtype=np.int64)
    first = widths.cumsum() - widths  # of each picture's objects
    shared, start = _mask_intersections(found.masks, real.masks)

    def of_masks(i: Array, j: Array) -> Array:
        picture = real.image[j]
        both = shared[start[picture] + found.place[i] * widths[picture] + real.place[j]]
        return _share(both, found.area[i], pixels[first[picture] + real.place[j]], real.crowd[j])

    return of_masks


def _box(real: Instances, j: Array) -> tuple[Array, Array]:
    return (real.boxes[j, 2] - real.boxes[j, 0]) * (real.boxes[j, 3] - real.boxes[j, 1]), real.crowd[j]


def _share(shared: Array, one: Array, two: Array, crowd: Array) -> Array:
    whole = np.where(crowd, one, one + two - shared)
    return np.divide(shared, whole, out=np.zeros_like(whole), where=shared > 0)


def _box_intersection(a: Array, b: Array) -> Array:
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    return width.clip(0) * height.clip(0)


def _mask_intersections(found: list[Tensor], real: list[Tensor]) -> tuple[Array, Array]:
    """Shared pixels of every detection with every object of its picture, and where each picture's begin."""
    for a, b in zip(found, real, strict=True):
        if len(a) and len(b) and a.shape[1] != b.shape[1]:
            raise ValueError(f"predictions: expected masks of {b.shape[1]} pixels as in truths, got {a.shape[1]}")
    tables = [(a.float() @ b.float().T).flatten() for a, b in zip(found, real, strict=True) if len(a) and len(b)]
    sizes = np.array([len(a) * len(b) for a, b in zip(found, real, strict=True)], dtype=np.int64)
    return _joined(tables, (0,)), sizes.cumsum() - sizes


def _sigmas(points: int, given: Sequence[float] | None) -> Array:
    if given is None and points not in (0, len(PERSON_SIGMAS)):
        raise ValueError(f"sigmas: expected one for each of {points} keypoints, got none (COCO's are for 17)")
    sigmas = np.asarray(PERSON_SIGMAS if given is None else given, dtype=np.float64)
    if points and (sigmas.shape != (points,) or not (sigmas > 0).all()):
        raise ValueError(f"sigmas: expected {points} positive numbers, got {sigmas.tolist()}")
    return sigmas


def _keypoint_similarity(found: Instances, real: Instances, i: Array, j: Array, sigmas: Array) -> Array:
    if not len(i):
        return np.zeros(0)
    assert found.keypoints is not None
    assert real.keypoints is not None
    said, true = found.keypoints[i, :, :2], real.keypoints[j]
    labelled = true[..., 2] > 0
    some = labelled.any(1)
    low, high = real.boxes[j, None, :2], real.boxes[j, None, 2:]
    outside = np.maximum(0, low - (high - low) - said) + np.maximum(0, said - (high + (high - low)))
    away = np.where(some[:, None, None], said - true[..., :2], outside)
    exponent = (away**2).sum(-1) / (2 * sigmas) ** 2 / (real.area[j] + np.spacing(1))[:, None] / 2
    counted = labelled | ~some[:, None]
    return (np.exp(-exponent) * counted).sum(1) / counted.sum(1)


def ranked(found: Instances, most: int) -> tuple[Instances, Array]:
    """Detections by class, picture and falling score, the `most` best of each class and picture, and their rank there."""
    order = np.argsort(-found.score, kind="stable")
    key = found.label[order] * (1 + int(found.image.max(initial=0))) + found.image[order]
    order = order[np.argsort(key, kind="stable")]
    rank = ranks(group_of(found)[order])
    return found.pick(order[rank < most]), rank[rank < most]


def group_of(instances: Instances) -> Array:
    """One number per class and picture, class first."""
    return instances.label * (1 << 40) + instances.image


def ranks(group: Array) -> Array:
    """The place of each element within its run of equals."""
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]]) if len(group) else np.zeros(0, dtype=np.int64)
    return np.arange(len(group)) - np.repeat(starts, np.diff(np.r_[starts, len(group)]))


def pairs(one: Array, two: Array) -> Iterator[tuple[Array, Array]]:
    """Every `i`, `j` with one[i] == two[j], by rising i, then j, in blocks of about a million.

    >>> [(i.tolist(), j.tolist()) for i, j in pairs(np.array([3, 5, 4]), np.array([4, 3, 3]))]
    [([0, 0, 2], [1, 2, 0])]
    """
    order = np.argsort(two, kind="stable")
    keys, first, count = np.unique(two[order], return_index=True, return_counts=True)
    if not len(keys):
        return
    at = np.searchsorted(keys, one).clip(max=len(keys) - 1)
    i = np.flatnonzero(keys[at] == one)
    at = at[i]
    ends = count[at].cumsum()
    cuts = np.flatnonzero(np.diff(ends // PAIRS_AT_ONCE)) + 1
    for part in np.split(np.arange(len(i)), cuts):
        if len(part):
            times = count[at[part]]
            inner = np.arange(int(times.sum())) - np.repeat(times.cumsum() - times, times)
            yield np.repeat(i[part], times), order[np.repeat(first[at[part]], times) + inner]


def near_pairs(one: Array, two: Array, overlap: Overlap, least: float) -> tuple[Array, Array, Array]:
    """The pairs `i`, `j` of one group that overlap by at least `least`, and by how much."""
    kept = []
    for i, j in pairs(one, two):
        value = overlap(i, j)
        enough = value >= least
        kept.append((i[enough], j[enough], value[enough]))
    if not kept:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
    i, j, value = (np.concatenate(column) for column in zip(*kept, strict=True))
    return i, j, value
