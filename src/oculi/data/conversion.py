r"""From one format to another: `convert("coco/", "voc/", "voc")` writes all that both can hold and tells what is lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oculi.catalogue import nearest
from oculi.data.datasets import Dataset, Splits
from oculi.data.formats import coco, panoptic_png, semantic_png, voc, yolo
from oculi.data.recognise import recognise
from oculi.data.sources import BadData, open_data

FORMATS = ("coco", "voc", "yolo", "semantic_png", "panoptic_png")


def convert(source: str | Path, out: str | Path, to: str, repair: bool = False) -> tuple[int, list[str]]:
    """Write what lies at `source` into the folder `out`, in the format `to`; how many pictures, and what is lost.

    A file without splits gets random shares, as when it is opened. Raises BadData.
    """
    if to not in FORMATS:
        raise BadData(f"to: no format called {to}{nearest(to, FORMATS)}")
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadData(f"{folder}: expected a new or an empty folder")
    splits, unread = _opened(recognise(source), to, repair)
    parts: dict[str, Dataset] = {"train": _with_crowd(splits.train), "val": _with_crowd(splits.validation)}
    if splits.test is not splits.validation:
        parts["test"] = _with_crowd(splits.test)
    return sum(map(len, parts.values())), [*unread, *write(parts, folder, to, splits.class_names)]


def write(parts: Mapping[str, Dataset], folder: Path, to: str, class_names: list[str] | None = None) -> list[str]:
    """Write splits ("train", "val", "test") into a folder that `open_data(to, path=folder)` reads; what is lost."""
    if to in ("voc", "yolo", "semantic_png"):
        writers: dict[str, Any] = {"voc": voc.write, "yolo": yolo.write, "semantic_png": semantic_png.write}
        return writers[to](parts, folder, class_names)
    lost = []
    for part, dataset in parts.items():
        file = folder / "annotations" / f"{'instances' if to == 'coco' else 'panoptic'}_{part}.json"
        one = coco.write if to == "coco" else panoptic_png.write
        lost += [f"{part}: {line}" for line in one(dataset, file, folder / part, class_names)]
    return lost


def _opened(options: dict[str, Any], to: str, repair: bool) -> tuple[Splits, list[str]]:
    """With all that the source holds for every picture, and a line for what it holds for some alone."""
    options = {**options, "repair": repair}
    if to in ("semantic_png", "panoptic_png"):
        options |= {"semantic": True} if options["name"] in ("coco", "voc", "yolo") else {}
        return open_data(**options), []
    splits, unread = open_data(**options), []
    count = len(splits.train) + len(splits.validation) + len(splits.test)
    for field in ("masks", "keypoints") if options["name"] in ("coco", "yolo") else ("masks",):
        if options["name"] not in ("coco", "voc", "yolo"):
            break
        try:
            more = open_data(**{**options, field: True, "repair": False})
        except BadData:
            unread.append(f"{field}: none, or not of every object")
            continue
        if len(more.train) + len(more.validation) + len(more.test) == count:
            options[field], splits = True, more
        else:
            unread.append(f"{field}: not of every picture")
    return splits, unread


def _with_crowd(dataset: Any) -> Dataset:
    return dataset.part(range(len(dataset))) if hasattr(dataset, "part") else dataset
