r"""What dense detectors share: the objects of a batch side by side, predictions cell by cell, from scores to answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from oculi.ops.nms import surviving
from oculi.predictions import Detections
from oculi.types import Batch

Found = tuple[Float[Tensor, "b d 4"], Float[Tensor, "b d"], Int[Tensor, "b d"]]


class Truth(NamedTuple):
    """Boxes, classes, and which of them are objects and not filling; every picture has room for one at least."""

    boxes: Float[Tensor, "b g 4"]
    kinds: Int[Tensor, "b g"]
    real: Bool[Tensor, "b g"]


def padded(values: Sequence[Tensor]) -> Tensor:
    """Rows of several pictures as one tensor `batch x most + 1 x ...`, zeros behind the last."""
    return pad_sequence([torch.cat([v, v.new_zeros(1, *v.shape[1:])]) for v in values], batch_first=True)


def objects_of(batch: Batch) -> Truth:
    """The objects of each picture, as many for all; crowd regions are not real. Raises ValueError where none are given."""
    if batch.boxes is None or batch.labels is None:
        raise ValueError("batch.boxes, batch.labels: expected the objects of each picture, got None")
    single = [~c for c in batch.crowd] if batch.crowd else [k >= 0 for k in batch.labels]
    return Truth(padded(batch.boxes), padded(batch.labels), padded(single))


def by_cell(x: Float[Tensor, "b c h w"], width: int) -> Float[Tensor, "b n width"]:
    """A map whose channels are `anchors * width`, row by row, anchor by anchor."""
    return x.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, width))


def separate(
    boxes: Float[Tensor, "b n 4"], scores: Float[Tensor, "b n"], labels: Int[Tensor, "b n"], overlap: float, most: int
) -> Found:
    """NMS within each class of what scores above 0, and the `most` best of it; what follows the last is 0."""
    kept = surviving(boxes, scores.masked_fill(scores <= 0, -torch.inf), labels, overlap)
    score, index = (scores * kept).topk(min(most, scores.shape[1]), 1)
    found, rows = score > 0, torch.arange(scores.shape[0], device=scores.device)[:, None]
    return boxes[rows, index] * found[..., None], score, labels[rows, index] * found


def best_of(
    scores: Float[Tensor, "b n classes"], least: float, most: int
) -> tuple[Float[Tensor, "b k"], Int[Tensor, "b k"], Int[Tensor, "b k"]]:
    """The `most` best scores over places and classes, 0 where not above `least`; their places and their classes."""
    classes = scores.shape[-1]
    flat = (scores * (scores > least)).flatten(1)
    best, index = flat.topk(min(most, flat.shape[1]), 1)
    return best, torch.div(index, classes, rounding_mode="floor"), index % classes


def answers(found: Iterable[Tensor], names: list[str] | None, more: str = "") -> list[Detections]:
    """Detections of each picture out of boxes, scores and labels that are filled up, and a fourth tensor, `more`: masks
    or keypoints."""
    fields = ("boxes", "scores", "labels", more) if more else ("boxes", "scores", "labels")
    rows = (dict(zip(fields, row, strict=True)) for row in zip(*found, strict=True))
    return [Detections(**{name: v[row["scores"] > 0] for name, v in row.items()}, names=names) for row in rows]
