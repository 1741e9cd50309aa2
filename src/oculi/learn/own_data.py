r"""A recipe on data of yours: `oculi train faster_rcnn --data PATH`.

What lies at the path is recognised; the number of classes and the size of the pictures follow from it, anchors grow with
the pictures. Recipes are sized for small networks, so pictures larger than 256 pixels are shrunk to that;
`--arguments.image_size` says otherwise.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oculi.catalogue import BadRecipe, Recipe, nearest, signature
from oculi.data.datasets import Dataset, Splits
from oculi.data.recognise import TRUTHS, recognise
from oculi.data.sources import SOURCES, BadData, open_data
from oculi.learn.training import shaped_by_weights, system_class

BY_ANSWER = {
    "Classes": ("label",),
    "Detections": ("boxes",),
    "Segmentation": ("semantic",),
    "Panoptic": ("semantic", "panoptic"),
    "Masks": ("masks",),
}
LARGEST, STEP, LOOKED_AT = 256, 32, 50


def fields_read(recipe: Recipe) -> set[str]:
    """What the system needs of a batch: by its kind of answer, and what its file names as `batch.masks` and so on."""
    answer = getattr(system_class(recipe), "answer", None)
    said = re.findall(r"\bbatch\.(\w+)", recipe.source.read_text(encoding="utf-8"))
    objects = {"boxes", "masks"} if "stuff" in signature(recipe) else set()  # its classes are those of objects
    return {*BY_ANSWER.get(getattr(answer, "__name__", ""), ()), *(set(said) & set(TRUTHS)), *objects}


def data_options(recipe: Recipe, data: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides `data.*` for a path or the name of a source; those that are `given` stay."""
    if data in SOURCES:
        return {"data.name": data, **given}
    if not Path(data).exists():
        raise BadData(f"data: {data} is neither a file nor a folder, and no source{nearest(data, SOURCES)}")
    found = recognise(Path(data).resolve(), fields_read(recipe))
    return {f"data.{key}": value for key, value in found.items()} | dict(given)


def on_own_data(recipe: Recipe, data: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], Splits]:
    """The overrides that make a recipe fit what lies at `data`, and that data opened. Raises BadData or BadRecipe."""
    recipe = shaped_by_weights(recipe, given)
    overrides = data_options(recipe, data, given)
    options = dict(recipe.with_overrides(overrides).data)
    splits = open_data(options.pop("name"), **options)
    if splits.environment is not None:
        raise BadRecipe(f"data: {data} holds no pictures")
    known, size = signature(recipe), picture_size(splits.train)
    fitting: dict[str, Any] = {"in_channels": size[0], "image_size": size[1]}
    if splits.class_names is not None:
        fitting["num_classes"] = len(splits.class_names)
    overrides |= {
        f"arguments.{key}": value
        for key, value in fitting.items()
        if key in known and f"arguments.{key}" not in overrides
    }
    before, after = recipe.arguments.get("image_size"), overrides.get("arguments.image_size")
    if "anchors" in recipe.arguments and "arguments.anchors" not in overrides and before and after:
        overrides["arguments.anchors"] = _times(recipe.arguments["anchors"], after / before)
    return overrides, splits


def picture_size(dataset: Dataset) -> tuple[int, int]:
    """Channels, and a side for square input: the median longer side, a multiple of 32 and at most 256 unless smaller."""
    images = [dataset[i].image for i in range(0, len(dataset), max(1, len(dataset) // LOOKED_AT))]
    shapes = [tuple(image.shape) for image in images if image is not None]
    if not shapes:
        raise BadRecipe("data: its samples have no pictures")
    side = statistics.median_low([max(height, width) for _, height, width in shapes])
    return max(shape[0] for shape in shapes), side if side < STEP else min(LARGEST, round(side / STEP) * STEP)


def same_classes(recipe: Recipe, names: list[str] | None, splits: Splits) -> Splits:
    """The splits, if their classes are those that the system knows. Raises BadRecipe with both."""
    if names is not None and splits.class_names is not None and names != splits.class_names:
        raise BadRecipe(f"data: its classes are {', '.join(splits.class_names)}; {recipe.id} knows {', '.join(names)}")
    return splits


def _times(value: Any, factor: float) -> Any:
    return [_times(one, factor) for one in value] if isinstance(value, list) else round(value * factor)
