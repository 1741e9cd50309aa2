r"""World as a source: `open_data("world", task="segmentation", size=64)`; every knob can be set, none is hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from oculi.data.datasets import Splits
from oculi.data.world.dataset import World
from oculi.data.world.scenes import Knobs


def load(
    task: str = "detection",
    size: int = 64,
    train: int = 2000,
    validation: int = 200,
    test: int = 400,
    seed: int = 0,
    classes: int = 5,
    fields: Sequence[str] = (),
    objects: Sequence[int] = (1, 5),
    radius: Sequence[float] = (0.7, 1.2),
    light: float = 1.0,
    texture: str = "mixed",
    background: str = "varied",
    fov: float = 50.0,
    blur: float = 0.0,
    noise: float = 0.0,
    balance: float = 1.0,
    label_noise: float = 0.0,
    occlusion: float = 0.3,
    lights: int = 1,
    shadows: bool = True,
) -> Splits:
    """Splits of disjoint scenes for `task`; `balance` and `label_noise` touch the training scenes alone.

    task: classification, detection, segmentation, flow or stereo; fields: more of a Sample's fields than the task has
    (depth, camera, normals, panoptic, boxes3d, questions, referring, ...); the rest are `scenes.Knobs`.
    """
    if len(objects) != 2 or len(radius) != 2:
        raise ValueError(f"objects, radius: expected two numbers each, got {objects} and {radius}")
    knobs = Knobs(
        objects=(int(objects[0]), int(objects[1])), radius=(float(radius[0]), float(radius[1])), light=light,
        texture=texture, background=background, fov=fov, blur=blur, noise=noise, balance=balance,
        label_noise=label_noise, occlusion=occlusion, lights=lights, shadows=shadows,
    )  # fmt: skip
    clean = replace(knobs, balance=1.0, label_noise=0.0)
    parts, start = [], 0
    for length, own in ((train, knobs), (validation, clean), (test, clean)):
        parts.append(World(length, task, size, seed, start, classes, tuple(fields), own))
        start += length
    train_part, validation_part, test_part = parts
    return Splits(train_part, validation_part, test_part, train_part.class_names)
