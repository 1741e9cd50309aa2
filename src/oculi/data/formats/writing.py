r"""What all writers share: nothing is written of what cannot be, files appear whole, and what is lost is told."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO

import torch
from PIL import Image

from oculi.data.datasets import Dataset
from oculi.data.formats.problems import Problems
from oculi.predictions import to_pil
from oculi.types import Sample


def label_names(parts: Mapping[str, Dataset], class_names: Sequence[str] | None) -> list[str]:
    """The classes' names, numbers where there are none. Raises BadData for samples that cannot be written."""
    problems, names = Problems("dataset"), list(class_names) if class_names is not None else None
    most = -1
    for dataset in parts.values():
        for index in range(len(dataset)):
            sample = dataset[index]
            problems.add(*_unfit(sample, index, names))
            if sample.labels is not None and len(sample.labels):
                most = max(most, int(sample.labels.max()))
    problems.report()
    return names if names is not None else [str(label) for label in range(most + 1)]


def _unfit(sample: Sample, index: int, names: list[str] | None) -> tuple[str, list[int]]:
    if sample.image is None or sample.boxes is None or sample.labels is None:
        return "samples without an image, boxes or labels", [index]
    if len(sample.image) not in (1, 3):
        return "samples whose picture has neither 1 nor 3 channels, which a PNG file cannot hold", [index]
    if len({len(v) for v in (sample.boxes, sample.labels, sample.masks, sample.crowd) if v is not None}) > 1:
        return "samples with unlike numbers of boxes, labels, masks or crowd flags", [index]
    if len(sample.labels) and (
        int(sample.labels.min()) < 0 or (names is not None and int(sample.labels.max()) >= len(names))
    ):
        return "samples with a label that has no name", [index]
    if not bool(torch.isfinite(sample.boxes).all()) or bool((sample.boxes[:, 2:] <= sample.boxes[:, :2]).any()):
        return "samples with a box of no or negative width or height", [index]
    return "", []


def saved(
    dataset: Dataset, folder: Path, lost: Problems, kept: Sequence[str], used: set[str] | None = None
) -> Iterator[tuple[str, Sample]]:
    """Each sample with its picture's file name once that is written as PNG; what else it holds that is not among the
    fields `kept` is lost, as are ids that are no file names."""
    folder.mkdir(parents=True, exist_ok=True)
    used = set() if used is None else used
    for index in range(len(dataset)):
        sample = dataset[index]
        name = re.sub(r"[^\w.-]+", "_", sample.id or f"{index:06d}").lstrip(".")
        numbered = (f"{name}-{k}" for k in count())
        name = next(n for n in chain([name], numbered) if n and n not in used)
        used.add(name)
        lost.add("ids that are no file names", [sample.id] if sample.id and name != sample.id else [])
        for spec in fields(sample):
            value = getattr(sample, spec.name)
            if (
                spec.name not in ("image", "id", *kept)
                and value is not None
                and not (spec.name == "facts" and not value)
            ):
                lost.add(f"{spec.name}, which this format does not hold", [name])
        assert sample.image is not None
        if len(sample.image) not in (1, 3):
            raise ValueError(f"image {name}: a PNG file holds 1 or 3 channels, this picture has {len(sample.image)}")
        levels = sample.image.double() * 255
        lost.add("pictures rounded to 8 bits", [name] if float((levels - levels.round()).abs().max()) > 1e-3 else [])
        picture = to_pil(sample.image) if len(sample.image) == 3 else to_pil(sample.image).convert("L")
        save_png(picture, folder / f"{name}.png")
        yield f"{name}.png", sample


def save_png(picture: Image.Image, path: Path) -> None:
    """A PNG file, whole or not at all."""
    with whole(path) as stream:
        picture.save(stream, "PNG")


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Write under a temporary name, then rename."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
