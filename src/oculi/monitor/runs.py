r"""Watching a trained run: its reference lies in its folder, new pictures are held against it.

    report = compare("runs/resnet", system, "photos/", splits)

The reference is made once, from the validation and test pictures of the run (never from those it was trained on), and
stored beside the weights. One call is one window, so one decision at the stated rate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from oculi.data.datasets import Dataset, Splits
from oculi.data.sources import open_data
from oculi.monitor.answers import describe
from oculi.monitor.data_drift import REFERENCE, DataDrift, DriftReport
from oculi.system import System

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
_MOST = 2000  # pictures of a reference


def compare(
    folder: str | Path, system: System, data: str, splits: Splits, rate: float = 0.01, renew: bool = False
) -> DriftReport:
    """The verdict on `data`: a folder of pictures or the name of a source (its test part).

    rate: the false-alarm rate. renew: make the reference anew. Raises ValueError where there is nothing to compare.
    """
    images = new_pictures(data, system)
    settings: dict[str, Any] = {"false_alarm_rate": rate, "resamples": max(1000, round(2 / rate) if rate > 0 else 0)}
    described = describe(system)
    if renew or not (Path(folder) / REFERENCE).is_file():
        held = torch.cat([_images(part, _MOST // 2) for part in (splits.validation, splits.test)])
        made = DataDrift(window=min(100, len(held) // 2), **settings).fit(held, **described)
        made.save(folder)
    made = DataDrift.load(folder, **described, **settings)
    assert made.reference is not None
    most = len(made.reference) // 2
    if len(images) > most:
        images = images[torch.linspace(0, len(images) - 1, most).round().long()]
    if len(images) < 2:
        raise ValueError(f"data: expected at least 2 pictures, got {len(images)}")
    return made.test(images)


def new_pictures(data: str, system: System) -> Float[Tensor, "n channels h w"]:
    """The pictures of a folder (and those in it) or of a source, as the system's contract wants them."""
    path = Path(data)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise ValueError(f"data: {data} holds no pictures")
        return system.contract.batch(list(files))
    if path.exists():
        raise ValueError(f"data: expected a folder of pictures or a source's name, got the file {data}")
    splits = open_data(data)
    if splits.environment is not None:
        raise ValueError(f"data: {data} is an environment and has no pictures")
    return _images(splits.prepared(system.contract).test, len(splits.test))


def _images(dataset: Dataset, most: int) -> Float[Tensor, "n channels h w"]:
    chosen = torch.linspace(0, len(dataset) - 1, min(most, len(dataset))).round().long().tolist()
    images = [dataset[i].image for i in chosen]
    if not images or any(image is None for image in images):
        raise ValueError("data: its samples have no pictures to watch")
    return torch.stack(images)  # type: ignore[arg-type]
