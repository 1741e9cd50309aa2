r"""World: samples by (seed, index), rendered in blocks and kept in memory as bytes, so that any order is fast."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from oculi.data.world import solids, truth
from oculi.data.world.render import Rendered, render
from oculi.data.world.scenes import COLOUR_NAMES, TEXTURES, Knobs, Scenes, class_shares, lay_out, look, moved
from oculi.data.world.shapes import SHAPES
from oculi.ops.boxes import mask_boxes
from oculi.types import Sample

BLOCK = 32
MOST_CLASSES = len(SHAPES) * len(TEXTURES) * len(COLOUR_NAMES)
WARM_COOL = ("warm", "cool")
TASKS = {
    "classification": ("label",),
    "detection": ("boxes", "labels", "masks", "caption"),
    "segmentation": ("semantic",),
    "flow": ("next_image", "flow"),
    "stereo": ("right_image", "disparity"),
}
FIELDS = (
    *(name for names in TASKS.values() for name in names),
    *("panoptic", "keypoints", "depth", "normals", "camera", "boxes3d", "voxels", "surface", "questions", "referring"),
)
OF_OBJECTS = ("keypoints", "voxels", "surface")
BASELINE = 0.3  # metres between the cameras of a stereo pair


class World:
    """`length` scenes of `task`, numbered from `start`; scene i depends on (seed, start + i) and the knobs alone."""

    def __init__(
        self,
        length: int,
        task: str = "detection",
        size: int = 64,
        seed: int = 0,
        start: int = 0,
        classes: int = len(SHAPES),
        fields: tuple[str, ...] = (),
        knobs: Knobs | None = None,
        keep_bytes: int = 1 << 30,
    ):
        if task not in TASKS:
            raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {task!r}")
        if length < 1:
            raise ValueError(f"length: expected at least one scene, got {length}")
        if not 16 <= size <= 1024:
            raise ValueError(f"size: expected 16 to 1024 pixels, got {size}")
        if not 2 <= classes <= MOST_CLASSES or (task != "classification" and classes != len(SHAPES)):
            raise ValueError(
                f"classes: expected 2 to {MOST_CLASSES} for classification, otherwise {len(SHAPES)}, got {classes}"
            )
        unknown = [name for name in fields if name not in FIELDS]
        if unknown:
            raise ValueError(f"fields: expected some of {', '.join(FIELDS)}, got {unknown[0]!r}")
        self.length, self.task, self.size, self.seed, self.start = length, task, size, seed, start
        self.classes, self.keep_bytes = classes, keep_bytes
        self.fields = {*TASKS[task], *fields}
        self.knobs = knobs or Knobs()
        if task == "classification":
            self.knobs = replace(self.knobs, objects=(1, 1))
        self.kept: dict[int, list[dict[str, Any]]] = {}

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        if self.task == "segmentation":
            return ["background", *SHAPES]
        return [class_name(c, self.classes) for c in range(self.classes)]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(f"index: expected 0 to {self.length - 1}, got {index}")
        block = index // BLOCK
        if block not in self.kept:
            made = self.make(range(block * BLOCK, min(self.length, (block + 1) * BLOCK)))
            if self.keep_bytes <= 0:
                self.kept.clear()
            self.kept[block] = [pack(sample) for sample in made]
            self.keep_bytes -= sum(v.nbytes for one in self.kept[block] for v in one.values() if isinstance(v, Tensor))
        return unpack(self.kept[block][index % BLOCK])

    def make(self, indices: range | list[int]) -> list[Sample]:
        """The samples of these scenes, rendered together."""
        numbers = [self.start + i for i in indices]
        scenes = lay_out(self.seed, numbers, self.knobs, self.classes, self.task == "classification")
        picture = render(scenes, self.size, self.knobs, self.seed)
        maps = self._maps(scenes, picture)
        masks = truth.visible(picture.slot, scenes.kind.shape[1])
        boxes = mask_boxes(masks)
        return [self._sample(scenes, i, picture, maps, masks[i], boxes[i]) for i in range(len(scenes))]

    def _maps(self, scenes: Scenes, picture: Rendered) -> dict[str, Tensor]:
        """Whatever the fields ask for that is one tensor for all scenes."""
        maps = {"image": picture.image}
        if "depth" in self.fields:
            maps["depth"] = picture.depth
        if "normals" in self.fields:
            maps["normals"] = picture.normals
        if "keypoints" in self.fields:
            maps["keypoints"] = truth.keypoints(scenes, picture)
        if "voxels" in self.fields:
            maps["voxels"] = solids.occupancy(scenes)
        if "surface" in self.fields:
            maps["surface"] = solids.surface(scenes)
        if {"next_image", "flow"} & self.fields:
            later = step(scenes, self.seed)
            maps["next_image"] = render(later, self.size, self.knobs, self.seed + 1).image
            maps["flow"] = truth.flow(scenes, later, picture)
        if {"right_image", "disparity"} & self.fields:
            right = replace(scenes, eye=scenes.eye + BASELINE * scenes.view[0])
            maps["right_image"] = render(right, self.size, self.knobs, self.seed + 1).image
            maps["disparity"] = truth.disparity(scenes, picture.depth, BASELINE)
        return maps

    def _sample(
        self, scenes: Scenes, i: int, picture: Rendered, maps: dict[str, Tensor], masks: Tensor, boxes: Tensor
    ) -> Sample:
        shown = masks.flatten(1).any(1).nonzero()[:, 0]
        kinds, asked = scenes.kind[i, shown], self.fields
        names = [truth.words(scenes, i, slot) for slot in shown.tolist()]
        sample = Sample(id=f"world-{self.seed}-{int(scenes.index[i])}")
        for name, value in maps.items():
            setattr(sample, name, value[i, shown] if name in OF_OBJECTS else value[i])
        sample.facts = _facts(scenes, i, boxes[shown])
        if "boxes" in asked or "labels" in asked:
            sample.boxes, sample.labels = boxes[shown], self._noisy(kinds, int(scenes.index[i]))
        if "masks" in asked:
            sample.masks = masks[shown]
        if "label" in asked:
            label = torch.tensor([class_of(scenes, i, self.classes)])
            sample.label = int(self._noisy(label, int(scenes.index[i]))[0])
        if "semantic" in asked:
            sample.semantic = (masks[shown] * (kinds[:, None, None] + 1)).sum(0)
        if "panoptic" in asked:
            sample.panoptic = (masks[shown] * torch.arange(1, len(shown) + 1)[:, None, None]).sum(0)
        if "camera" in asked:
            sample.camera = scenes.cameras(self.size)[i]
        if "boxes3d" in asked:
            sample.boxes3d = truth.boxes3d(scenes)[i, shown]
        if "caption" in asked:
            sample.caption = truth.caption(names)
        if "questions" in asked:
            sample.questions = truth.questions(names, boxes[shown])
        if "referring" in asked:
            sample.referring = truth.referring(names, boxes[shown])
        return sample

    def _noisy(self, labels: Tensor, index: int) -> Tensor:
        """A share of labels replaced by another class."""
        if self.knobs.label_noise == 0 or len(labels) == 0:
            return labels
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index + (1 << 60))
        wrong = torch.rand(len(labels), generator=generator) < self.knobs.label_noise
        shift = torch.randint(1, self.classes, (len(labels),), generator=generator)
        return torch.where(wrong, (labels + shift) % self.classes, labels)


def class_name(label: int, classes: int) -> str:
    """`sphere`; of many classes `checker sphere`, `warm checker sphere` or `red checker sphere`."""
    plain, textured = len(SHAPES), len(SHAPES) * len(TEXTURES)
    words = [SHAPES[label % plain]]
    if classes > plain:
        words.insert(0, TEXTURES[label // plain % len(TEXTURES)])
    if classes > textured:
        words.insert(0, (COLOUR_NAMES if classes > 2 * textured else WARM_COOL)[label // textured])
    return " ".join(words)


def class_of(scenes: Scenes, scene: int, classes: int) -> int:
    """The class of a scene's only object."""
    kind, texture, colour = (int(v[scene, 0]) for v in (scenes.kind, scenes.texture, scenes.colour))
    plain, textured = len(SHAPES), len(SHAPES) * len(TEXTURES)
    label = kind
    if classes > plain:
        label += plain * texture
    if classes > textured:
        label += textured * (colour if classes > 2 * textured else colour // 4)
    return label


def step(scenes: Scenes, seed: int) -> Scenes:
    """One step later: the camera has moved a little and so has every object."""
    rows = [
        torch.rand(
            8 + 3 * scenes.kind.shape[1], generator=torch.Generator().manual_seed(seed * 1_000_003 + i + (3 << 59))
        )
        for i in scenes.index.tolist()
    ]
    numbers = torch.stack(rows, 1) * 2 - 1
    own = numbers[8:].reshape(3, -1, len(scenes)).transpose(1, 2)
    later = moved(scenes, torch.stack([own[0] * 0.2, own[1] * 0.2, torch.zeros_like(own[0])]), own[2] * 0.1)
    eye = scenes.eye + numbers[:3] * 0.2
    target = scenes.eye + 8 * scenes.view[2] + numbers[3:6] * 0.1
    return replace(later, eye=eye, view=look(eye, target))


def _facts(scenes: Scenes, scene: int, boxes: Tensor) -> dict[str, float | str]:
    """For slices: the smallest object's side in pixels, how many objects, how much light."""
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    smallest = float(sides.min()) if len(sides) else 0.0
    return {"smallest": smallest, "objects": float(len(boxes)), "light": float(scenes.ambient[scene]) / 0.4}


def pack(sample: Sample) -> dict[str, Any]:
    """The sample's known fields, pictures and small integers as bytes."""
    packed = {name: value for name, value in vars(sample).items() if value is not None}
    for name in ("image", "next_image", "right_image"):
        if name in packed:
            packed[name] = (packed[name] * 255).round().to(torch.uint8)
    for name in ("semantic", "panoptic"):
        if name in packed:
            packed[name] = packed[name].to(torch.uint8)
    return {name: v.clone() if isinstance(v, Tensor) else v for name, v in packed.items()}


def unpack(packed: dict[str, Any]) -> Sample:
    """The sample again, in tensors of its own."""
    values: dict[str, Any] = {name: v.clone() if isinstance(v, Tensor) else v for name, v in packed.items()}
    for name in ("image", "next_image", "right_image"):
        if name in values:
            values[name] = values[name].float() / 255
    for name in ("semantic", "panoptic"):
        if name in values:
            values[name] = values[name].long()
    values["facts"] = dict(values["facts"])
    return Sample(**values)


__all__ = ["BASELINE", "TASKS", "World", "class_name", "class_shares", "step"]
