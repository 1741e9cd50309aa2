r"""ImageFolder: one folder of pictures per class, `path/<class>/*.jpg`, or split already: `path/train/<class>/...`."""

from __future__ import annotations

from pathlib import Path

import torch

from oculi.data.datasets import Splits
from oculi.data.formats.pictures import SUFFIXES, picture_size
from oculi.data.formats.problems import Problems
from oculi.data.sources import BadData
from oculi.input_contract import read_pixels
from oculi.types import Sample


class ImageFolder:
    """Pictures on disk, read when asked for."""

    def __init__(self, files: list[tuple[Path, int]]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path, label = self.files[index]
        return Sample(image=read_pixels(path).float() / 255, label=label, id=str(path))


def load(path: str, validation: float = 0.1, test: float = 0.2, seed: int = 0, repair: bool = False) -> Splits:
    """The folder's pictures; where `train/` and `test/` (or `val/`) exist they are the splits, else random shares are.

    Raises BadData when there is no such folder, fewer than two classes, a class without pictures, or with all pictures
    that cannot be read, which `repair` leaves out.
    """
    root = Path(path)
    if not root.is_dir():
        raise BadData(f"{root}: no such folder")
    problems = Problems(root)
    names = class_names(root / "train" if (root / "train").is_dir() else root)
    if (root / "train").is_dir():
        held = [
            _files(root / part, names, problems) if (root / part).is_dir() else [] for part in ("train", "val", "test")
        ]
        problems.told(repair)
        train, middle, last = held
        return Splits(ImageFolder(train), ImageFolder(middle or last), ImageFolder(last or middle), names)
    files = _files(root, names, problems)
    problems.told(repair)
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)).tolist()
    shuffled = [files[i] for i in order]
    first, second = round(len(files) * test), round(len(files) * (test + validation))
    parts = shuffled[second:], shuffled[first:second], shuffled[:first]
    if any(not part for part in parts):
        raise BadData(f"{root}: {len(files)} pictures are too few for shares {test} to test, {validation} to validate")
    train_part, validation_part, test_part = map(ImageFolder, parts)
    return Splits(train_part, validation_part, test_part, names)


def class_names(root: Path) -> list[str]:
    """The sub-folders' names in order."""
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise BadData(f"{root}: expected a folder per class, at least two, found {len(names)}")
    return names


def _files(root: Path, names: list[str], problems: Problems) -> list[tuple[Path, int]]:
    found: list[tuple[Path, int]] = []
    for label, name in enumerate(names):
        here = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not here:
            raise BadData(f"{root / name}: no pictures ({', '.join(sorted(SUFFIXES))})")
        for path in here:
            fault = picture_size(path)[1]
            problems.add(fault, [path] if fault else [])
            found += [] if fault else [(path, label)]
    return found
