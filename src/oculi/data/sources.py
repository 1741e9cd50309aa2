r"""Data by name: what a recipe's `data:` and the command line's `--data` can say.

    open_data("digits")
    open_data("folder", path="photos/")        one folder per class
    open_data("coco", path="annotations.json", images="photos/")

Each name is a module with a function `load(**options) -> Splits`; a source of yours is one call of `Splits(...)`.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from oculi.catalogue import nearest
from oculi.data.datasets import Splits

SOURCES = {
    "digits": "oculi.data.digits",
    "fashion_mnist": "oculi.data.fashion_mnist",
    "folder": "oculi.data.image_folder",
    "coco": "oculi.data.formats.coco",
    "voc": "oculi.data.formats.voc",
    "yolo": "oculi.data.formats.yolo",
    "semantic_png": "oculi.data.formats.semantic_png",
    "panoptic_png": "oculi.data.formats.panoptic_png",
    "world": "oculi.data.world.sources",
    "same_colour": "oculi.data.same_colour",
    "world_views": "oculi.data.world.views",
    "world_pairs": "oculi.data.world.pairs",
    "world_video": "oculi.data.world.video",
    "world_walk": "oculi.data.world.walk",
    "synthetic_shapes": "oculi.data.synthetic_shapes",
    "episodes": "oculi.data.episodes",
    "class_split": "oculi.data.class_split",
    "environment": "oculi.data.environment",
}


class BadData(ValueError):
    """The data cannot be read; the message says what is missing or wrong and where."""


def open_data(name: str, **options: Any) -> Splits:
    """Training, validation and test data of the source `name`. Raises BadData for an unknown name or option."""
    if name not in SOURCES:
        raise BadData(f"data: no source called {name}{nearest(name, SOURCES)}")
    load = import_module(SOURCES[name]).load
    known = inspect.signature(load).parameters
    for option in options:
        if option not in known:
            raise BadData(f"data: {name} has no option {option}{nearest(option, known)}")
    for option, described in known.items():
        if described.default is described.empty and option not in options:
            raise BadData(f"data: {name} needs {option}")
    return load(**options)
