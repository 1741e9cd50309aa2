r"""The records that every system speaks: Sample and Batch going in, one Prediction per image coming out.

Conventions: images RGB float32 in [0, 1], `3 x height x width`; boxes `x1 y1 x2 y2` in pixels, continuous (pixel centres
at +0.5); masks bool; labels int64 from 0 without a background class, 255 = ignore in `semantic`, -1 = unlabelled image;
depth in metres along z; flow in pixels (dx, dy).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oculi.geometry.camera import Camera

IGNORE = 255
UNLABELLED = -1
Losses = dict[str, Tensor]


@dataclass
class Sample:
    """One picture and all that may come with it; what is not known is None."""

    image: Float[Tensor, "channels height width"] | None = None
    label: int | None = None
    boxes: Float[Tensor, "objects 4"] | None = None
    labels: Int[Tensor, " objects"] | None = None
    masks: Bool[Tensor, "objects height width"] | None = None
    crowd: Bool[Tensor, " objects"] | None = None
    semantic: Int[Tensor, "height width"] | None = None
    panoptic: Int[Tensor, "height width"] | None = None
    keypoints: Float[Tensor, "objects points 3"] | None = None
    depth: Float[Tensor, "height width"] | None = None
    normals: Float[Tensor, "3 height width"] | None = None
    disparity: Float[Tensor, "height width"] | None = None
    flow: Float[Tensor, "2 height width"] | None = None
    next_image: Float[Tensor, "channels height width"] | None = None
    next_depth: Float[Tensor, "height width"] | None = None  # of the next image, as its camera sees it
    next_camera: Camera | None = None
    right_image: Float[Tensor, "channels height width"] | None = None
    video: Float[Tensor, "frames channels height width"] | None = None  # the first frame is `image`
    video_masks: Bool[Tensor, "objects frames height width"] | None = None
    camera: Camera | None = None
    points: Float[Tensor, "points features"] | None = None
    boxes3d: Float[Tensor, "objects 7"] | None = None
    voxels: Bool[Tensor, "objects layers rows columns"] | None = None
    surface: Float[Tensor, "objects points 3"] | None = None
    caption: str | None = None
    questions: list[tuple[str, str]] | None = None
    referring: list[tuple[str, int]] | None = None
    id: str | None = None
    facts: dict[str, float | str] = field(default_factory=dict)


@dataclass
class Prompts:
    """What to segment: p prompts for each picture, in the network's pixels; a kind that no prompt has is None.

    labels of the points: 1 on the object, 0 beside it, -1 no point (padding), 2 and 3 the two corners of a box.
    """

    points: Float[Tensor, "batch prompts points 2"] | None = None
    labels: Int[Tensor, "batch prompts points"] | None = None
    boxes: Float[Tensor, "batch prompts 4"] | None = None
    masks: Float[Tensor, "batch prompts rows columns"] | None = None  # logits, coarse, of an earlier answer
    embeddings: Float[Tensor, "batch prompts width"] | None = None  # of a text or of a picture

    def to(self, device: torch.device | str) -> Prompts:
        """The same prompts on another device."""
        return Prompts(**{f.name: _move(getattr(self, f.name), device) for f in fields(self)})


@dataclass
class Batch:
    """Samples side by side: what has one shape is stacked, what varies per image (boxes, masks, text) is a list."""

    image: Float[Tensor, "batch channels height width"] | None = None
    label: Int[Tensor, " batch"] | Float[Tensor, "batch classes"] | None = None  # soft where pictures were mixed
    boxes: list[Tensor] | None = None
    labels: list[Tensor] | None = None
    masks: list[Tensor] | None = None
    crowd: list[Tensor] | None = None  # which boxes stand for several objects: scored leniently, not trained on
    semantic: Int[Tensor, "batch height width"] | None = None
    panoptic: Int[Tensor, "batch height width"] | None = None
    keypoints: list[Tensor] | None = None
    depth: Float[Tensor, "batch height width"] | None = None
    normals: Float[Tensor, "batch 3 height width"] | None = None
    disparity: Float[Tensor, "batch height width"] | None = None
    flow: Float[Tensor, "batch 2 height width"] | None = None
    next_image: Float[Tensor, "batch channels height width"] | None = None
    next_depth: Float[Tensor, "batch height width"] | None = None
    next_camera: Camera | None = None
    right_image: Float[Tensor, "batch channels height width"] | None = None
    video: Float[Tensor, "batch frames channels height width"] | None = None
    video_masks: list[Tensor] | None = None
    camera: Camera | None = None
    points: list[Tensor] | None = None
    boxes3d: list[Tensor] | None = None
    voxels: list[Tensor] | None = None  # of each object's own cube, see data/world/solids.py
    surface: list[Tensor] | None = None  # points on it, the cube being [-1, 1] each way
    caption: list[str] | None = None
    questions: list[list[tuple[str, str]]] | None = None
    referring: list[list[tuple[str, int]]] | None = None
    id: list[str] | None = None
    facts: list[dict[str, float | str]] | None = None
    support: Batch | None = None  # few-shot: the labelled examples of the episode, the queries being `image`
    prompts: Prompts | None = None  # of promptable segmentation
    transitions: dict[str, Tensor] | None = None  # reinforcement learning: observation, action, advantage, ...

    def __len__(self) -> int:
        for value in (self.image, self.label, self.camera, self.id):
            if value is not None:
                return len(value)
        if self.transitions is not None:
            return len(next(iter(self.transitions.values())))
        raise ValueError("Batch: it holds neither image, label, camera, id nor transitions, so it has no length")

    @property
    def pictures(self) -> Float[Tensor, "batch channels height width"]:
        """The images. Raises ValueError where the batch has none."""
        if self.image is None:
            raise ValueError("batch.image: expected pictures, got None")
        return self.image

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(self, **{f.name: _move(getattr(self, f.name), device) for f in fields(self)})

    def __getitem__(self, index: int) -> Sample:
        """The sample at `index`."""
        values = {f.name: getattr(self, f.name) for f in fields(Sample)}
        picked = {name: value[index] for name, value in values.items() if value is not None}
        if isinstance(picked.get("label"), Tensor):
            picked["label"] = int(picked["label"])
        return Sample(**picked)

    @staticmethod
    def of(samples: Sequence[Sample]) -> Batch:
        """Collate samples. Raises ValueError when they disagree about which fields they have, or on image size."""
        if not samples:
            raise ValueError("samples: expected at least one, got none")
        joined: dict[str, Any] = {}
        for spec in fields(Sample):
            values = [getattr(sample, spec.name) for sample in samples]
            missing = sum(value is None for value in values)
            if missing == len(values):
                continue
            if missing:
                raise ValueError(f"samples: {missing} of {len(values)} have no {spec.name}, the others do")
            joined[spec.name] = _join(spec.name, values)
        return Batch(**joined)


_RAGGED = {
    "boxes",
    "labels",
    "masks",
    "video_masks",
    "crowd",
    "keypoints",
    "points",
    "boxes3d",
    "voxels",
    "surface",
    "caption",
    "questions",
    "referring",
    "id",
    "facts",
}


def _join(name: str, values: list[Any]) -> Any:
    if name in _RAGGED:
        return values
    if name == "label":
        return torch.tensor(values, dtype=torch.int64)
    if name in ("camera", "next_camera"):
        return Camera.stack(values)
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        raise ValueError(
            f"{name}: expected one shape in a batch, got {sorted(shapes)}; resize with an InputContract first"
        )
    return torch.stack(values)


def _move(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor | Camera | Prompts | Batch):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _move(item, device) for key, item in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], Tensor):
        return [item.to(device) for item in value]
    return value


def images_only(images: Float[Tensor, "batch channels height width"]) -> Batch:
    """A batch that knows nothing but its pictures, as predict and serve see it."""
    return Batch(image=images)


def take(iterable: Iterable[Batch], count: int) -> list[Batch]:
    """The first `count` batches."""
    taken: list[Batch] = []
    for batch in iterable:
        if len(taken) == count:
            break
        taken.append(batch)
    return taken
