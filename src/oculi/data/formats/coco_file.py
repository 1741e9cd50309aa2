r"""The JSON file of COCO annotations, checked as a whole before anything is used of it.

A category's id may be any number, gaps allowed; its label is its place among the sorted ids. What is wrong with pictures
or annotations goes to `problems` and is left out; borders exceeded by less than a pixel (rounding) are cut.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oculi.data.formats.pictures import picture_size, twice
from oculi.data.formats.polygons import crosses_itself
from oculi.data.formats.problems import Problems, sound_box
from oculi.data.formats.run_length import decode
from oculi.data.sources import BadData

Entry = dict[str, Any]
KEY = int | str
LISTS = ("images", "categories", "annotations")


@dataclass
class CocoFile:
    """Sound pictures and their sound annotations (`box`: x1 y1 x2 y2) by picture id, and what was wrong."""

    category_ids: list[int | str]
    class_names: list[str]
    images: list[Entry]
    annotations: dict[int | str, list[Entry]]
    problems: Problems


def read_file(path: Path, folder: Path, masks: bool, keypoints: bool = False) -> CocoFile:
    """Read and check. `masks`, `keypoints`: whether these are needed. Raises BadData where it is not a COCO file at all."""
    document = read_document(path)
    problems = Problems(path)
    categories = sound_entries(document, "categories", {"name": str}, problems)
    ids = sorted(categories, key=lambda key: (isinstance(key, str), key))
    names = [categories[key]["name"] for key in ids]
    problems.add("category names met twice", twice(names))
    said = sound_entries(document, "images", {"file_name": str, "height": int, "width": int}, problems)
    problems.add("file names met twice", twice(image["file_name"] for image in said.values()))
    images = {}
    for key, image in said.items():
        fault = picture_fault(image, folder)
        if fault:
            problems.add(*fault)
        else:
            images[key] = image
    rows = sound_entries(document, "annotations", {"image_id": KEY, "category_id": KEY, "bbox": list}, problems)
    chosen: dict[int | str, list[Entry]] = {key: [] for key in images}
    points = 0
    for key, row in rows.items():
        kind = _fault(row, said, categories, masks)
        if kind is None and keypoints:
            points = points or len(row.get("keypoints") or ())
            kind = _points_fault(row.get("keypoints"), points)
        if kind:
            problems.add(f"annotations {kind}", [key])
        elif row["image_id"] in images:
            chosen[row["image_id"]].append(row)
    return CocoFile(ids, names, list(images.values()), chosen, problems)


def read_document(path: Path) -> Entry:
    """The file as an object with the three lists. Raises BadData."""
    if not path.is_file():
        raise BadData(f"{path}: no such file")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadData(f"{path}: not valid JSON ({error})") from None
    if not isinstance(document, dict):
        raise BadData(f"{path}: expected an object with {', '.join(LISTS)}, got a {type(document).__name__}")
    missing = [name for name in LISTS if not isinstance(document.get(name), list)]
    if missing:
        raise BadData(f"{path}: expected lists called {', '.join(LISTS)}; there is none called {', '.join(missing)}")
    return document


def sound_entries(document: Entry, name: str, wanted: dict[str, Any], problems: Problems) -> dict[int | str, Entry]:
    """Entries by id: those that have all fields, each of its type, the first of several with one id."""
    found: dict[int | str, Entry] = {}
    for place, entry in enumerate(document[name]):
        if not isinstance(entry, dict):
            problems.add(f"{name} that are no objects, by place", [place])
            continue
        lacking = [k for k, kind in {"id": KEY, **wanted}.items() if not is_kind(entry.get(k), kind)]
        if lacking:
            problems.add(f"{name} without a proper {', '.join(lacking)}, by place", [place])
        elif entry["id"] in found:
            problems.add(f"{name} with an id met before", [entry["id"]])
        else:
            found[entry["id"]] = entry
    return found


def is_kind(value: Any, kind: Any) -> bool:
    """Whether a value is of the type, truth values being no numbers."""
    return isinstance(value, kind) and not isinstance(value, bool)


def picture_fault(image: Entry, folder: Path) -> tuple[str, list[object]] | None:
    """What is wrong with a picture: its name, the file, or its size."""
    name = Path(image["file_name"])
    if name.is_absolute() or ".." in name.parts or not name.name:
        return "file names that leave the folder of pictures", [image["file_name"]]
    path = folder / name
    size, fault = picture_size(path)
    if fault:
        return fault, [path]
    if size != (image["width"], image["height"]):
        told = f"{path} is {size[0]} x {size[1]}, said to be {image['width']} x {image['height']}"
        return "pictures of another size than the file says", [told]
    return None


def _fault(row: Entry, images: dict[int | str, Entry], categories: dict[int | str, Entry], masks: bool) -> str | None:
    """What is wrong with an annotation; a sound one gets its `box`."""
    if row["image_id"] not in images:
        return "of an unknown picture"
    if row["category_id"] not in categories:
        return "of an unknown category"
    if row.get("iscrowd", 0) not in (0, 1):
        return "with a crowd flag that is neither 0 nor 1"
    if len(row["bbox"]) != 4 or not all(is_kind(v, int | float) for v in row["bbox"]):
        return "whose box is not four finite numbers"
    x, y, width, height = (float(v) for v in row["bbox"])
    image = images[row["image_id"]]
    row["box"], fault = sound_box([x, y, x + width, y + height], image["width"], image["height"])
    if fault:
        return fault
    return _outline_fault(row.get("segmentation"), image) if masks else None


def _points_fault(points: Any, count: int) -> str | None:
    if (
        not isinstance(points, list)
        or not points
        or len(points) % 3
        or not all(is_kind(v, int | float) for v in points)
    ):
        return "without points x y v"
    return None if len(points) == count else "with more or fewer points than others"


def _outline_fault(outline: Any, image: Entry) -> str | None:
    if isinstance(outline, dict):
        if outline.get("size") != [image["height"], image["width"]]:
            return "with run lengths of another size than the picture"
        try:
            decode(outline)
        except ValueError:
            return "with run lengths that do not fill the picture"
        return None
    if not isinstance(outline, list) or not outline:
        return "without a segmentation"
    for polygon in outline:
        if not isinstance(polygon, list) or not all(is_kind(v, int | float) and abs(v) < 1e6 for v in polygon):
            return "with a polygon that is not a list of numbers"
        if len(polygon) < 6 or len(polygon) % 2:
            return "with a polygon of less than three corners or half a corner"
        if crosses_itself(polygon):
            return "with a polygon that crosses itself"
    return None
