r"""Test-time augmentation: the same picture seen in several ways, what is said about each view moved back and averaged.

    p(y | x) = 1/V sum_v u_v(f(v(x)))

v is a view and u_v undoes it on dense answers (segmentation, depth); class probabilities have nothing to undo. The views
are mirror images and quarter turns, which are exact, and zooms, after which dense answers are resized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from oculi.learn.ensemble import combined
from oculi.predictions import Classes, Depth, Embeddings, Prediction, Segmentation
from oculi.system import System, predict
from oculi.types import Batch, images_only

_TURNS = {"quarter": 1, "half": 2, "three_quarters": 3}


def predict_augmented(system: System, pictures: Any, views: Sequence[str] = ("plain", "flip")) -> list[Prediction]:
    """One answer per picture, the mean over the views. Views are plain, flip, flip_vertical, quarter, half,
    three_quarters, and zoom factors as text ("0.8")."""
    if not views:
        raise ValueError("views: expected at least one, got none")
    if isinstance(pictures, Batch):
        batch = images_only(pictures.pictures)
    else:
        batch = images_only(system.contract.batch(list(pictures) if isinstance(pictures, list | tuple) else [pictures]))
    size = (batch.pictures.shape[-2], batch.pictures.shape[-1])
    each = []
    for view in views:
        answers = predict(system, Batch(image=seen(batch.pictures, view)))
        each.append([undone(answer, view, size) for answer in answers])
    return [combined(answers) for answers in zip(*each, strict=True)]


def seen(image: Float[Tensor, "*b h w"], view: str) -> Float[Tensor, "*b h2 w2"]:
    """The picture in one view."""
    if view in ("plain", "flip", "flip_vertical", *_TURNS):
        return _moved(image, view, _TURNS.get(view, 0))
    return F.interpolate(image, scale_factor=_factor(view), mode="bilinear", antialias=_factor(view) < 1)


def undone(answer: Prediction, view: str, size: tuple[int, int]) -> Prediction:
    """The answer about a view as an answer about the picture, `size` being its height and width."""
    if isinstance(answer, Classes | Embeddings):
        return answer
    if isinstance(answer, Segmentation) and answer.probabilities is not None:
        probabilities = _back(answer.probabilities, view, size)
        return replace(answer, semantic=probabilities.argmax(0), probabilities=probabilities)
    if isinstance(answer, Depth):
        return replace(answer, depth=_back(answer.depth[None], view, size)[0])
    raise ValueError(f"views: they cannot be undone on {type(answer).__name__}")


def _back(value: Float[Tensor, "c h2 w2"], view: str, size: tuple[int, int]) -> Float[Tensor, "c h w"]:
    if view in ("plain", "flip", "flip_vertical", *_TURNS):
        return _moved(value, view, -_TURNS.get(view, 0))
    return F.interpolate(value[None], size=size, mode="bilinear")[0]


def _moved(value: Tensor, view: str, turns: int) -> Tensor:
    if view in ("flip", "flip_vertical"):
        return value.flip(-1 if view == "flip" else -2)
    return value.rot90(turns, (-2, -1)) if turns else value


def _factor(view: str) -> float:
    try:
        factor = float(view)
    except ValueError:
        factor = 0.0
    if factor <= 0:
        known = ", ".join(("plain", "flip", "flip_vertical", *_TURNS))
        raise ValueError(f"views: expected one of {known} or a zoom above 0, got {view}")
    return factor
