r"""What a system itself sees in images, as rows of numbers to watch: its embedding and its outputs.

    monitor.fit(images, **describe(system))

    embed    pooled feature maps (`features`), the vector of `embed`, or the answer where it is a vector
    answer   class probabilities; for segmentation each class's share of the picture; for detection how many boxes
             score at least 0.3, the best score and the mean one

A system with neither (it draws pictures, or answers about something else) is watched by its images' statistics alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from oculi.predictions import Classes, Detections, Embeddings, Prediction, Segmentation
from oculi.system import System, evaluating, predict
from oculi.types import images_only

Describe = Callable[[Tensor], Tensor]
_BATCH = 128


def describe(system: System) -> dict[str, Describe | None]:
    """The functions `embed` and `answer` of a system, None for what it does not have; images as its contract wants."""
    reads = {
        Classes: _probabilities,
        Segmentation: _class_shares,
        Detections: _box_figures,
    }
    embed: Describe | None = None
    if system.answer is Embeddings:
        embed = _batched(lambda part: _vectors(predict(system, images_only(part))))
    elif hasattr(system, "embed"):
        vectors: Any = system.embed
        embed = _batched(lambda part: _inside(system, vectors, part))
    elif hasattr(system, "features"):
        maps: Any = system.features
        embed = _batched(lambda part: _inside(system, lambda x: maps(x)[-1].mean((2, 3)), part))
    read = reads.get(system.answer)
    if read is None:
        return {"embed": embed, "answer": None}
    return {"embed": embed, "answer": _batched(lambda part: read(predict(system, images_only(part))))}


def _vectors(found: Sequence[Prediction]) -> Tensor:
    return torch.stack([one.vector for one in found if isinstance(one, Embeddings)])


def _batched(function: Describe) -> Describe:
    return lambda images: torch.cat([function(part).detach().cpu() for part in images.split(_BATCH)])


def _inside(system: System, function: Describe, images: Tensor) -> Float[Tensor, "n columns"]:
    with evaluating(system):
        return function(images.to(system.device))


def _probabilities(answers: Sequence[Prediction]) -> Float[Tensor, "n classes"]:
    return torch.stack([answer.probabilities for answer in answers])  # type: ignore[attr-defined]


def _class_shares(answers: Sequence[Prediction]) -> Float[Tensor, "n classes"]:
    """Mean probability of each class over the pixels, or the class's share of them."""
    rows = []
    for answer in answers:
        assert isinstance(answer, Segmentation)
        known = answer.probabilities
        rows.append(F.one_hot(answer.semantic, 256).double().mean((0, 1)) if known is None else known.mean((1, 2)))
    return torch.stack(rows)


def _box_figures(answers: Sequence[Prediction]) -> Float[Tensor, "n 3"]:
    rows = []
    for answer in answers:
        assert isinstance(answer, Detections)
        scores = answer.scores
        best, mean = (float(scores.max()), float(scores.mean())) if len(scores) else (0.0, 0.0)
        rows.append([float((scores >= 0.3).sum()), best, mean])
    return torch.tensor(rows)
