r"""COCO panoptic: a JSON file that names the segments of each picture, and PNG files whose colours are the segments' ids.

    annotations/panoptic_val.json    images, categories (id, name, isthing), annotations: image_id, file_name of the PNG,
                                     segments_info (id, category_id, iscrowd)
    annotations/panoptic_val/x.png   id = red + 256 green + 65536 blue, 0 where nothing is said
    val/x.jpg                        pictures

A sample gets `semantic` (a category's place among the sorted ids, 255 where nothing is said) and `panoptic` (things
counted from 1 in the order of segments_info; 0 for stuff, whose class stands in `semantic`). Crowd segments are unknown.

Kirillov, He, Girshick, Rother, Dollar: Panoptic Segmentation, 2018, arXiv:1801.00868.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from oculi.data.datasets import Dataset, Splits
from oculi.data.formats.coco_file import KEY, Entry, is_kind, picture_fault, read_document, sound_entries
from oculi.data.formats.pictures import Pictures, Row, official, picture_size, shares, twice
from oculi.data.formats.problems import Problems
from oculi.data.formats.writing import save_png, saved, whole
from oculi.data.sources import BadData
from oculi.types import IGNORE


def load(
    path: str, images: str = "", validation: float = 0.1, test: float = 0.2, seed: int = 0, repair: bool = False
) -> Splits:
    """Random shares of one file, or the splits of a folder with annotations/panoptic_train*.json and others.

    images: the folder of pictures, where it is not the one that the file's name says; repair: leave out what is wrong.
    """
    root = Path(path)
    if not root.is_dir():
        problems = Problems(root)
        rows, names = _read(root, Path(images) if images else _folder_of(root), problems)
        return shares(Pictures(rows, names, problems.told(repair)), validation, test, seed, root)
    problems, found = Problems(root), {}
    for part in ("train", "val", "test"):
        files = sorted((root / "annotations").glob(f"panoptic_{part}*.json"))
        if len(files) > 1:
            raise BadData(f"{root}: expected one annotations/panoptic_{part}*.json, found {len(files)}")
        if files:
            found[part] = _read(files[0], _folder_of(files[0]), problems)
    if len({tuple(names) for _, names in found.values()}) > 1:
        raise BadData(f"{root}: the files of the splits have unlike categories")
    left_out = problems.told(repair)
    return official({part: Pictures(rows, names, left_out) for part, (rows, names) in found.items()}, root)


def _folder_of(file: Path) -> Path:
    """`val` beside `annotations` for panoptic_val.json, or `images` beside the file."""
    named = file.parent.parent / file.stem.removeprefix("panoptic_")
    return named if named.is_dir() and file.stem.startswith("panoptic_") else file.parent / "images"


def _read(file: Path, folder: Path, problems: Problems) -> tuple[list[Row], list[str]]:
    document = read_document(file)
    categories = sound_entries(document, "categories", {"name": str, "isthing": int}, problems)
    ids = sorted(categories, key=lambda key: (isinstance(key, str), key))
    names = [categories[key]["name"] for key in ids]
    problems.add("category names met twice", twice(names))
    problems.add("categories beyond the 255 that a map can hold", ids[IGNORE:])
    images = sound_entries(document, "images", {"file_name": str, "height": int, "width": int}, problems)
    notes: dict[int | str, Entry] = {}
    for place, note in enumerate(document["annotations"]):
        wanted = {"image_id": KEY, "file_name": str, "segments_info": list}
        if not isinstance(note, dict) or not all(is_kind(note.get(k), kind) for k, kind in wanted.items()):
            problems.add("annotations without a proper image_id, file_name or segments_info, by place", [place])
        elif note["image_id"] in notes:
            problems.add("annotations of a picture that has one already", [note["image_id"]])
        elif note["image_id"] not in images:
            problems.add("annotations of an unknown picture", [note["image_id"]])
        else:
            notes[note["image_id"]] = note
    problems.add("pictures without an annotation", [key for key in images if key not in notes])
    kinds = {key: (place, bool(categories[key]["isthing"])) for place, key in enumerate(ids)}
    rows = []
    for key, note in notes.items():
        fault = picture_fault(images[key], folder)
        if fault:
            problems.add(*fault)
            continue
        table = _table(note, file.with_suffix(""), images[key], kinds, problems)
        if table is not None:
            name = Path(images[key]["file_name"])
            more = partial(_maps, file.with_suffix("") / note["file_name"], table)
            rows.append(Row(folder / name, str(name.with_suffix("")), more=more))
    return rows, names


Table = dict[int, tuple[int, int]]  # segment id: class, number of the thing or 0


def _table(
    note: Entry, folder: Path, image: Entry, kinds: dict[int | str, tuple[int, bool]], problems: Problems
) -> Table | None:
    """The picture's sound segments; None where its PNG cannot be used."""
    path = folder / note["file_name"]
    if Path(note["file_name"]).is_absolute() or ".." in Path(note["file_name"]).parts:
        problems.add("file names that leave the folder of masks", [note["file_name"]])
        return None
    size, fault = picture_size(path)
    if not fault and size != (image["width"], image["height"]):
        fault = "masks of another size than the picture"
    try:
        shown = set() if fault else set(read_ids(path).unique().tolist()) - {0}
    except (OSError, SyntaxError, ValueError):
        fault = "pictures that cannot be read"
    if fault:
        problems.add(fault.replace("pictures", "masks"), [path])
        return None
    table: Table = {}
    said: set[Any] = set()
    things = 0
    for one in note["segments_info"]:
        fault = _segment_fault(one, kinds, said, shown)
        if fault:
            key = one.get("id") if isinstance(one, dict) else one
            problems.add(f"segments {fault}", [f"{note['file_name']} {key}"])
            continue
        said.add(one["id"])
        place, thing = kinds[one["category_id"]]
        if one.get("iscrowd", 0):
            continue
        things += thing
        table[one["id"]] = (place, things if thing else 0)
    named = {one.get("id") for one in note["segments_info"] if isinstance(one, dict)}
    problems.add("segments in the mask alone", [f"{note['file_name']} {key}" for key in sorted(shown - named)])
    return table


def _segment_fault(one: Any, kinds: dict[int | str, tuple[int, bool]], said: set[Any], shown: set[int]) -> str:
    if not isinstance(one, dict) or not is_kind(one.get("id"), int) or not is_kind(one.get("category_id"), KEY):
        return "without a proper id and category_id"
    if one["category_id"] not in kinds:
        return "of an unknown category"
    if one["id"] in said:
        return "with an id met before"
    return "" if one["id"] in shown else "of no pixels"


def read_ids(path: Path) -> Int[Tensor, "height width"]:
    """The segments' ids of a PNG."""
    with Image.open(path) as picture:
        pixels = np.array(picture.convert("RGB")).astype(np.int64)
    return torch.from_numpy(pixels @ (1, 256, 65536))


def _maps(path: Path, table: Table) -> dict[str, Tensor]:
    ids, place = read_ids(path).unique(return_inverse=True)
    pairs = torch.tensor([table.get(key, (IGNORE, 0)) for key in ids.tolist()]).reshape(-1, 2)
    return {"semantic": pairs[:, 0][place], "panoptic": pairs[:, 1][place]}


def write(
    dataset: Dataset,
    path: str | Path,
    images: str | Path = "",
    class_names: Sequence[str] | None = None,
    things: Sequence[int] | None = None,
) -> list[str]:
    """Write pictures into `images` (default: beside the file), masks into a folder called as the file, then the file.

    things: the classes that are counted; those that any object of the pictures has, unless said. Returns what is lost.
    """
    path, problems = Path(path), Problems("dataset")
    counted, most = set(things or ()), -1
    for index in range(len(dataset)):
        sample = dataset[index]
        if sample.image is None or sample.semantic is None or sample.panoptic is None:
            problems.add("samples without an image, a semantic map or a panoptic map", [index])
            continue
        known = sample.semantic[sample.semantic != IGNORE]
        most = max(most, int(known.max()) if len(known) else -1)
        pairs = torch.stack([sample.panoptic, sample.semantic])[:, sample.panoptic > 0].unique(dim=1)
        problems.add("samples with an object of two classes", [index] if twice(pairs[0].tolist()) else [])
        counted |= set(pairs[1].tolist()) if things is None else set()
    names = list(class_names) if class_names is not None else [str(k) for k in range(most + 1)]
    problems.add("classes without a name", [most] if most >= len(names) else [])
    problems.report()
    lost, pictures, notes = Problems(path), [], []
    masks = path.with_suffix("")
    masks.mkdir(parents=True, exist_ok=True)
    for index, (file, sample) in enumerate(
        saved(dataset, Path(images) if str(images) else path.parent / "images", lost, ("semantic", "panoptic"))
    ):
        assert sample.semantic is not None
        assert sample.panoptic is not None
        ids, segments = _segments(sample.semantic, sample.panoptic, counted, file, lost)
        height, width = ids.shape
        colours = torch.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).numpy().astype(np.uint8)
        save_png(Image.fromarray(colours), masks / file)
        pictures.append({"id": index + 1, "file_name": file, "height": height, "width": width})
        notes.append({"image_id": index + 1, "file_name": file, "segments_info": segments})
    categories = [{"id": k + 1, "name": name, "isthing": int(k in counted)} for k, name in enumerate(names)]
    with whole(path) as stream:
        document = {"images": pictures, "categories": categories, "annotations": notes}
        stream.write(json.dumps(document).encode())
    return lost.lines()


def _segments(
    semantic: Tensor, panoptic: Tensor, things: set[int], file: str, lost: Problems
) -> tuple[Tensor, list[Entry]]:
    """Ids per pixel, things first, and what they are."""
    semantic, panoptic = semantic.cpu().long(), panoptic.cpu().long()
    pairs, place = torch.stack([panoptic, semantic]).flatten(1).unique(dim=1, return_inverse=True)
    numbers = [k for k in pairs[0].tolist() if k]
    lost.add("objects numbered anew", [file] if numbers != list(range(1, len(numbers) + 1)) else [])
    ids = torch.zeros(pairs.shape[1], dtype=torch.int64)
    segments: list[Entry] = []
    for column in sorted(range(pairs.shape[1]), key=lambda k: (pairs[0, k] == 0, k)):
        number, kind = pairs[:, column].tolist()
        if kind == IGNORE or (number == 0) == (kind in things):
            unsaid = kind != IGNORE or number > 0
            lost.add("pixels of things outside objects, or of objects that are none", [file] if unsaid else [])
            continue
        ids[column] = len(segments) + 1
        mask = (place == column).reshape(semantic.shape)
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        x, y = int(columns[0]), int(rows[0])
        box = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
        segments.append(
            {"id": len(segments) + 1, "category_id": kind + 1, "area": int(mask.sum()), "bbox": box, "iscrowd": 0}
        )
    return ids[place].reshape(semantic.shape), segments
