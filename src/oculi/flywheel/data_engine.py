r"""SAM's data engine: the model helps people to label, learns from what they labelled, and helps better.

    1  assisted     people click at every object and correct the model's mask until it is good
    2  half         sure automatic masks are accepted as they are; people click at the objects that are left
    3  automatic    nobody clicks: masks from a grid of points, filtered by predicted IoU and stability

Each stage labels pictures of its own with the model as it is; then the model learns from all masks so far. Here the truth
plays the people: a click is at the centre of what is missed or found too much, an automatic mask is accepted in the half
stage when it is an object's, and labelling an object ends when its mask is good or patience is.

    masks a picture        what a stage gives; clicks a mask: what it costs
    held_out               mean IoU of one click on pictures that no stage saw, after learning

Kirillov et al.: Segment Anything, 2023, arXiv:2304.02643 (section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from oculi.data.datasets import Splits
from oculi.learn.protocols.promptable import centre, correction, score
from oculi.ops.boxes import mask_iou, paired_mask_iou
from oculi.predictions import Masks
from oculi.system import System, evaluating, predict
from oculi.types import Batch, Prompts, Sample

STAGES = ("assisted", "half", "automatic")
GOOD, SAME = 0.85, 0.7  # IoU at which people are content; IoU at which an automatic mask is taken for an object's


@dataclass(frozen=True)
class Stage:
    """What one stage gave and cost."""

    name: str
    pictures: int
    masks: int
    clicks: int
    held_out: float
    mask_iou: float  # of the labels with the objects that they are closest to

    @property
    def masks_a_picture(self) -> float:
        return self.masks / self.pictures

    @property
    def clicks_a_mask(self) -> float:
        return self.clicks / max(1, self.masks)


def clicked(
    system: System, image: Tensor, objects: Bool[Tensor, "n h w"], patience: int
) -> tuple[Bool[Tensor, "n h w"], int]:
    """Masks of the objects by at most `patience` clicks at each, and how many clicks there were."""
    network: Any = system
    if not len(objects):
        return objects, 0
    with evaluating(system):
        features = network.features(image[None])
        points, labels = centre(objects)[:, None], torch.ones(len(objects), 1, dtype=torch.int64)
        said, content, clicks = torch.zeros_like(objects), torch.zeros(len(objects), dtype=torch.bool), 0
        fed: Tensor | None = None
        for _ in range(patience):
            clicks += int((~content).sum())
            fed, _ = network.best(features, Prompts(points[None], labels[None], masks=fed))
            said = torch.where(content[:, None, None], said, network.enlarge(fed)[0] > 0)
            content = content | (paired_mask_iou(said, objects) >= GOOD)
            if bool(content.all()):
                break
            point, on = correction(said, objects)
            points, labels = torch.cat([points, point[:, None]], 1), torch.cat([labels, on[:, None]], 1)
    return said, clicks


def labelled(system: System, sample: Sample, stage: str, patience: int) -> tuple[Bool[Tensor, "n h w"], int]:
    """The masks that a stage gives a picture, and the clicks that they cost; `sample.masks` is what people know."""
    if stage not in STAGES:
        raise ValueError(f"stage: expected one of {', '.join(STAGES)}, got {stage!r}")
    image, objects = sample.image, sample.masks
    if image is None or objects is None:
        raise ValueError("sample: expected a picture with the masks of its objects")
    if stage == "assisted":
        return clicked(system, image, objects, patience)
    (answer,) = predict(system, Batch(image=image[None]))
    assert isinstance(answer, Masks)
    if stage == "automatic":
        return answer.masks, 0
    if not len(objects) or not len(answer.masks):
        return clicked(system, image, objects, patience)
    best, which = mask_iou(objects, answer.masks).max(1)
    rest, clicks = clicked(system, image, objects[best < SAME], patience)
    return torch.cat([answer.masks[which[best >= SAME]], rest]), clicks


def run(
    system: System,
    pictures: Sequence[Sample],
    held_out: Sequence[Sample],
    learn: Callable[[System, Splits], object],
    patience: int = 5,
) -> list[Stage]:
    """The three stages on a third of the pictures each; `learn(system, splits)` trains on all labels so far.

    `system` should have learned a little before: the paper's had public data sets.
    """
    if len(pictures) < len(STAGES) or patience < 1:
        raise ValueError(f"pictures, patience: expected at least 3 and 1, got {len(pictures)} and {patience}")
    done, labels = [], []
    for number, name in enumerate(STAGES):
        mine = list(pictures[number :: len(STAGES)])
        masks, clicks, fit = 0, 0, []
        for sample in mine:
            found, spent = labelled(system, sample, name, patience)
            masks, clicks = masks + len(found), clicks + spent
            if len(found) and sample.masks is not None and len(sample.masks):
                fit.append(mask_iou(found, sample.masks).amax(1))
            labels.append(replace(sample, masks=found, boxes=None, labels=None))
        learn(system, Splits(labels, list(held_out), list(held_out)))
        known = score(system, Splits(labels, list(held_out), list(held_out)), "test")["iou_1_click"]
        quality = float(torch.cat(fit).mean()) if fit else 0.0
        done.append(Stage(name, len(mine), masks, clicks, known, quality))
    return done
