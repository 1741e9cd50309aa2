r"""Pictures on disk with what is known of each, read when asked for: what every format is read into."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from oculi.data.datasets import Splits
from oculi.data.sources import BadData
from oculi.input_contract import read_pixels
from oculi.types import Sample

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"}


@dataclass
class Row:
    """A picture with its objects (boxes x1 y1 x2 y2); `more` reads what is costly: masks, maps, keypoints."""

    path: Path
    id: str
    boxes: list[list[float]] | None = None
    labels: list[int] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    more: Callable[[], dict[str, Tensor]] | None = None


class Pictures:
    """Rows as samples; `left_out` tells what `repair` left out."""

    def __init__(self, rows: list[Row], class_names: list[str], left_out: Iterable[str] = ()):
        self.rows, self.class_names, self.left_out, self.crowd = rows, class_names, list(left_out), True

    def part(self, indices: Sequence[int], crowd: bool = True) -> Pictures:
        """Some of the pictures; without `crowd` regions they are fit to train on."""
        chosen = copy.copy(self)
        chosen.rows, chosen.crowd = [self.rows[i] for i in indices], crowd
        return chosen

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        row = self.rows[index]
        sample = Sample(image=read_pixels(row.path).float() / 255, id=row.id)
        more = row.more() if row.more is not None else {}
        if row.boxes is not None:
            kept = torch.tensor([self.crowd or not c for c in row.crowd], dtype=torch.bool)
            sample.boxes = torch.tensor(row.boxes, dtype=torch.float32).reshape(-1, 4)[kept]
            sample.labels = torch.tensor(row.labels, dtype=torch.int64)[kept]
            more |= {name: more[name][kept] for name in ("masks", "keypoints") if name in more}
            if self.crowd:
                sample.crowd = torch.tensor(row.crowd, dtype=torch.bool)
        for name, value in more.items():
            setattr(sample, name, value)
        return sample


def picture_size(path: Path) -> tuple[tuple[int, int], str]:
    """(width, height) of a picture on disk, and what is wrong with it (nothing: an empty text)."""
    if not path.is_file():
        return (0, 0), "pictures that are not on disk"
    try:
        with Image.open(path) as picture:
            return picture.size, ""
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return (0, 0), "pictures that cannot be read"


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder, in order."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []


def twice(names: Iterable[Any]) -> list[Any]:
    """What occurs more than once.

    >>> twice(["a", "b", "a"])
    ['a']
    """
    return [name for name, count in Counter(names).items() if count > 1]


def shares(whole: Any, validation: float, test: float, seed: int, source: Path) -> Splits:
    """Random shares of pictures, without crowd regions to train on."""
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed)).tolist()
    first, second = round(len(whole) * test), round(len(whole) * (test + validation))
    parts = order[second:], order[first:second], order[:first]
    if not all(parts):
        raise BadData(
            f"{source}: {len(whole)} pictures are too few for shares {test} to test, {validation} to validate"
        )
    return Splits(whole.part(parts[0], False), whole.part(parts[1]), whole.part(parts[2]), whole.class_names)


def official(parts: Mapping[str, Any], source: Path) -> Splits:
    """Splits that the data come with; without test pictures those of `val` serve, and the other way round."""
    held = [parts[name] for name in ("val", "test") if name in parts and len(parts[name])]
    if not len(parts.get("train", ())) or not held:
        raise BadData(f"{source}: expected pictures to train on, and others to validate or test")
    train = parts["train"]
    return Splits(train.part(range(len(train)), False), held[0], held[-1], train.class_names)
