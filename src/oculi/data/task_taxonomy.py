r"""The answers of vision's tasks, and the conversion of each into those that say less.

    panoptic   a segment per pixel: objects (things) and regions (stuff)         Panoptic
       |-> semantic   a class per pixel                                          Segmentation
       '-> instances  a mask per object                                          Detections with masks
              '-> boxes  a box per object                                        Detections
                     '-> single  one class and its box                           Detections of one
                            '-> label  one class                                 Classes

Instances also give semantic and panoptic maps: where masks overlap the higher score wins, what none covers is background.
Nothing leads from a class per pixel to objects, since two that touch are one region.

Classes of pixels (`semantic`) count stuff, those of objects (`labels`) do not: with background as the only stuff, the
usual case, object label k is pixel class k + 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from oculi.catalogue import nearest
from oculi.ops.boxes import mask_boxes
from oculi.predictions import Classes, Detections, Panoptic, Prediction, Segmentation
from oculi.types import IGNORE

TASKS = ("label", "single", "boxes", "instances", "semantic", "panoptic")


def convert(answer: Prediction, task: str, stuff: Sequence[int] = (0,)) -> Prediction:
    """The answer as one to `task`, one of TASKS. Raises ValueError where it does not hold what the task asks for.

    stuff: the pixel classes that are no objects.
    """
    if task not in TASKS:
        raise ValueError(f"task: {task!r} is none{nearest(task, TASKS)}")
    if isinstance(answer, Panoptic):
        if task == "panoptic":
            return answer
        return to_semantic(answer) if task == "semantic" else convert(to_instances(answer, stuff), task, stuff)
    if isinstance(answer, Segmentation) and task == "semantic":
        return answer
    if isinstance(answer, Classes) and task == "label":
        return answer
    if isinstance(answer, Detections) and (answer.masks is not None or task in ("label", "single", "boxes")):
        if task == "panoptic":
            return to_panoptic(answer, stuff)
        if task == "semantic":
            return to_semantic(to_panoptic(answer, stuff))
        fewer: dict[str, Callable[[Detections], Prediction]] = {
            "label": to_label,
            "single": to_single,
            "boxes": to_boxes,
        }
        return fewer[task](answer) if task in fewer else answer
    held = "Detections without masks" if isinstance(answer, Detections) else type(answer).__name__
    raise ValueError(f"answer: {held} cannot answer the task {task}")


def true_panoptic(
    panoptic: Int[Tensor, "height width"],
    labels: Int[Tensor, " objects"] | None = None,
    semantic: Int[Tensor, "height width"] | None = None,
) -> Panoptic:
    """A sample's maps as an answer: object k - 1 where `panoptic` is k, then one segment for each class of stuff.

    An object's class is that of most of its pixels in `semantic` (255 where it has none), else its label + 1; stuff, where
    `panoptic` is 0, is what `semantic` says (255: no segment), else 0.
    """
    if labels is None and semantic is None:
        raise ValueError("labels, semantic: expected one of them to name the objects' classes, got neither")
    count = int(panoptic.max()) if panoptic.numel() else 0
    if labels is not None and count > len(labels):
        raise ValueError(f"panoptic: expected objects 0..{len(labels)}, one label each, got {count}")
    count = count if labels is None else len(labels)
    if semantic is None:
        assert labels is not None
        things, rest = labels.long() + 1, torch.zeros_like(panoptic)
    else:
        votes = torch.bincount((panoptic * 256 + semantic).flatten().long(), minlength=(count + 1) * 256)
        votes = votes.reshape(-1, 256)[1:]
        things, rest = votes.argmax(1).masked_fill(votes.sum(1) == 0, IGNORE), semantic
    stuff, place = rest.masked_fill(panoptic > 0, IGNORE).unique(return_inverse=True)
    segments = torch.where(panoptic > 0, panoptic, count + 1 + place)
    segments = segments.masked_fill((panoptic == 0) & (rest == IGNORE), 0)
    known = stuff[stuff != IGNORE]  # 255 sorts last, so that the places of the others are 0, 1, ...
    classes = torch.cat([things, known.long()])
    return Panoptic(segments.long(), classes, torch.ones(len(classes)))


def to_semantic(answer: Panoptic) -> Segmentation:
    """The class of each pixel, 255 where there is no segment."""
    return Segmentation(answer.semantic, names=answer.names)


def to_instances(answer: Panoptic, stuff: Sequence[int] = (0,)) -> Detections:
    """The segments that are objects, with their masks and tight boxes, best first; segments without pixels are left out."""
    regions = torch.tensor(sorted(set(stuff)), dtype=answer.labels.dtype, device=answer.labels.device)
    masks = answer.panoptic == torch.arange(1, len(answer.labels) + 1, device=answer.panoptic.device)[:, None, None]
    things = ~torch.isin(answer.labels, regions) & masks.flatten(1).any(1)
    kept = things.nonzero()[:, 0]
    kept = kept[answer.scores[kept].argsort(descending=True, stable=True)]
    labels = answer.labels[kept] - torch.searchsorted(regions, answer.labels[kept])
    names = [n for k, n in enumerate(answer.names) if k not in stuff] if answer.names else None
    return Detections(mask_boxes(masks[kept]), answer.scores[kept], labels, masks[kept], names=names)


def to_panoptic(answer: Detections, stuff: Sequence[int] = (0,)) -> Panoptic:
    """Objects without overlap, the higher score on top, and the rest as one segment of the first class of stuff.

    Without any stuff the rest has no segment.
    """
    if answer.masks is None:
        raise ValueError("answer: expected detections with masks, got none")
    count, order = len(answer.labels), answer.scores.argsort(stable=True)
    size = answer.masks.shape[-2:]
    place = torch.cat([order.new_zeros(1), order + 1])[:, None, None]  # painted from the worst to the best
    painted = torch.arange(1, count + 1, device=order.device)[:, None, None] * answer.masks[order]
    top = painted.amax(0) if count else order.new_zeros(size)
    segments = place[top].reshape(size)
    regions = sorted(set(stuff))
    labels = answer.labels.clone()
    for region in regions:
        labels = labels + (labels >= region)
    scores = answer.scores
    if regions:
        segments = torch.where(segments > 0, segments, count + 1)
        labels, scores = torch.cat([labels, labels.new_tensor(regions[:1])]), torch.cat([scores, scores.new_ones(1)])
    return Panoptic(segments, labels, scores)


def to_boxes(answer: Detections) -> Detections:
    """Boxes without masks and keypoints."""
    return Detections(answer.boxes, answer.scores, answer.labels, names=answer.names)


def to_single(answer: Detections) -> Detections:
    """The best detection alone; none where there is none."""
    best = answer.scores.argsort(descending=True, stable=True)[:1]
    return Detections(answer.boxes[best], answer.scores[best], answer.labels[best], names=answer.names)


def to_label(answer: Detections, classes: int = 0) -> Classes:
    """The best score of each class, in shares of their sum. Raises ValueError where nothing is found."""
    if not len(answer.labels):
        raise ValueError("answer: expected at least one detection to name the picture by, got none")
    classes = classes or (len(answer.names) if answer.names else 1 + int(answer.labels.max()))
    best = answer.scores.new_zeros(classes).scatter_reduce(0, answer.labels, answer.scores, "amax")
    return Classes(best / best.sum().clamp_min(1e-12), answer.names)
