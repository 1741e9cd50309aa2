r"""A class per pixel: a folder of pictures and one of PNG masks with the same names; read and written.

    images/x.jpg, masks/x.png                                     random shares
    train/images/x.jpg, train/masks/x.png, val/...                splits, or
    images/train/x.jpg, masks/train/x.png, images/val/...

`masks` may be called labels or annotations, the splits training, validation and valid. Numbers stand in a palette's
index or a grey level, 255 is unknown; colours mean what labelmap.txt says. Names come from labelmap.txt or classes.txt;
where there is neither, the classes are the numbers up to the largest one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from oculi.data.datasets import Dataset, Splits
from oculi.data.formats.label_maps import Colours, map_fault, read_map, read_names, save_map, save_names
from oculi.data.formats.pictures import Pictures, Row, official, picture_size, pictures_in, shares, twice
from oculi.data.formats.problems import Problems
from oculi.data.formats.writing import saved
from oculi.data.sources import BadData
from oculi.types import IGNORE

MASKS = ("masks", "labels", "annotations")
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


def load(path: str, validation: float = 0.1, test: float = 0.2, seed: int = 0, repair: bool = False) -> Splits:
    """The folder's splits, or random shares where it has none; repair: leave out what is wrong."""
    root = Path(path)
    found = folders(root)
    if not found:
        told = f"expected pictures in images and PNG files in {', '.join(MASKS[:-1])} or {MASKS[-1]}"
        raise BadData(f"{root}: {told}, or such folders in or below train and val")
    problems = Problems(root)
    names, colours = read_names(root)
    problems.add("class names met twice", twice(names))
    rows = {part: _rows(*pair, len(names), colours, problems) for part, pair in found.items()}
    left_out = problems.told(repair)
    if not names:
        numbers = [int(m[m != IGNORE].max()) for some in rows.values() for row in some for m in _values(row)]
        names = [str(k) for k in range(max(numbers, default=-1) + 1)]
    parts = {part: Pictures(some, names, left_out) for part, some in rows.items()}
    return shares(parts["all"], validation, test, seed, root) if "all" in parts else official(parts, root)


def folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """Pictures and masks of each split, or of `all`; empty where there are none."""
    found = {}
    for part, called in SPLITS.items():
        for name in called:
            pair = _pair(root / name, "") or _pair(root, name)
            if pair:
                found[part] = pair
    whole = _pair(root, "")
    return found if "train" in found and len(found) > 1 else {"all": whole} if whole else {}


def _pair(root: Path, below: str) -> tuple[Path, Path] | None:
    pictures = root / "images" / below
    for name in MASKS:
        if pictures_in(pictures) and any((root / name / below).glob("*.png")):
            return pictures, root / name / below
    return None


def _rows(pictures: Path, masks: Path, classes: int, colours: Colours | None, problems: Problems) -> list[Row]:
    files = pictures_in(pictures)
    stems = {p.stem for p in files}
    problems.add("pictures with one name and two endings", twice(p.stem for p in files))
    problems.add("masks without a picture", [p for p in sorted(masks.glob("*.png")) if p.stem not in stems])
    rows = []
    for path in {p.stem: p for p in reversed(files)}.values():
        mask = masks / f"{path.stem}.png"
        size, fault = picture_size(path)
        if fault:
            problems.add(fault, [path])
            continue
        fault = map_fault(mask, size, classes - 1 if classes else IGNORE, colours)
        if fault:
            problems.add(fault, [mask])
            continue
        rows.append(Row(path, path.stem, more=partial(_map, mask, colours)))
    return rows[::-1]


def _map(mask: Path, colours: Colours | None) -> dict[str, Tensor]:
    return {"semantic": read_map(mask, colours)}


def _values(row: Row) -> list[Tensor]:
    """The map, if any of it is known."""
    values = row.more()["semantic"] if row.more is not None else None
    return [values] if values is not None and bool((values != IGNORE).any()) else []


def write(parts: Mapping[str, Dataset], folder: str | Path, class_names: Sequence[str] | None = None) -> list[str]:
    """Write splits ("train", "val", "test") as PNG pictures and palette masks; returns what is lost, a line per kind."""
    root, problems = Path(folder), Problems("dataset")
    for part, dataset in parts.items():
        for index in range(len(dataset)):
            sample = dataset[index]
            if sample.image is None or sample.semantic is None:
                problems.add("samples without an image or a semantic map", [f"{part} {index}"])
            elif bool(((sample.semantic < 0) | (sample.semantic > IGNORE)).any()):
                problems.add("samples with a class below 0 or above 255", [f"{part} {index}"])
    problems.report()
    lost = Problems(root)
    for part, dataset in parts.items():
        (root / "masks" / part).mkdir(parents=True, exist_ok=True)
        for file, sample in saved(dataset, root / "images" / part, lost, ("semantic",)):
            assert sample.semantic is not None
            save_map(sample.semantic, root / "masks" / part / file)
    if class_names:
        save_names(class_names, root)
    return lost.lines()
