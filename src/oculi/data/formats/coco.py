r"""COCO: pictures, categories and annotations in one JSON file, read and written.

    images       id, file_name, height, width
    categories   id (any numbers, gaps allowed), name       -> labels 0, 1, ... in the order of their ids
    annotations  image_id, category_id, bbox [x y width height], iscrowd, segmentation (polygons or run lengths)

Boxes become x1 y1 x2 y2. A crowd region is one box around many objects: it is left out of training data and marked in
`crowd` elsewhere. Everything is checked when a file is opened, so that reading a sample later does not fail; all that is
wrong is told at once, or left out with `repair`.

    open_data("coco", path="annotations.json", images="photos/")      shares of one file
    open_data("coco", path="coco/")                                   coco/annotations/instances_train*.json, coco/train*/

Lin et al.: Microsoft COCO: Common Objects in Context, 2014, arXiv:1405.0312.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oculi.data.datasets import Dataset, Splits
from oculi.data.formats.coco_file import Entry, read_file
from oculi.data.formats.pictures import official, shares
from oculi.data.formats.problems import Problems
from oculi.data.formats.run_length import decode, encode, fill
from oculi.data.formats.writing import label_names, saved, whole
from oculi.data.painting import painted
from oculi.data.sources import BadData
from oculi.input_contract import read_pixels
from oculi.types import Sample

KEPT = ("boxes", "labels", "masks", "crowd", "keypoints")


class Coco:
    """The pictures of one annotation file, read when asked for; `left_out` tells what `repair` left out."""

    def __init__(
        self,
        path: str | Path,
        images: str | Path = "",
        masks: bool = False,
        repair: bool = False,
        keypoints: bool = False,
    ):
        self.path, self.masks, self.keypoints, self.crowd = Path(path), masks, keypoints, True
        self.folder = Path(images) if str(images) else _folder_of(self.path)
        file = read_file(self.path, self.folder, masks, keypoints)
        self.left_out = file.problems.told(repair)
        if not file.images:
            raise BadData(f"{self.path}: no picture is left" if file.problems.count else f"{self.path}: no pictures")
        self.class_names, self.category_ids = file.class_names, file.category_ids
        self.images, self.annotations = file.images, file.annotations
        found = (row["keypoints"] for rows in self.annotations.values() for row in rows if keypoints)
        self.points = len(next(found, ())) // 3
        self.label = {key: place for place, key in enumerate(file.category_ids)}

    def part(self, indices: Sequence[int], crowd: bool = True) -> Coco:
        """Some of its pictures; without `crowd` regions they are fit to train on."""
        chosen = copy.copy(self)
        chosen.images, chosen.crowd = [self.images[i] for i in indices], crowd
        return chosen

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        image = self.images[index]
        rows = [row for row in self.annotations[image["id"]] if self.crowd or not row.get("iscrowd", 0)]
        sample = Sample(
            image=read_pixels(self.folder / image["file_name"]).float() / 255,
            boxes=torch.tensor([row["box"] for row in rows], dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor([self.label[row["category_id"]] for row in rows], dtype=torch.int64),
            id=str(Path(image["file_name"]).with_suffix("")),
        )
        if self.crowd:
            sample.crowd = torch.tensor([bool(row.get("iscrowd", 0)) for row in rows], dtype=torch.bool)
        if self.masks:
            size = image["height"], image["width"]
            masks = [_mask(row["segmentation"], *size) for row in rows]
            sample.masks = torch.stack(masks) if masks else torch.zeros(0, *size, dtype=torch.bool)
        if self.keypoints:
            points = torch.tensor([row["keypoints"] for row in rows], dtype=torch.float32)
            sample.keypoints = points.reshape(len(rows), -1, 3) if rows else torch.zeros(0, self.points, 3)
        return sample


def _mask(outline: Any, height: int, width: int) -> Tensor:
    return decode(outline) if isinstance(outline, dict) else fill(outline, height, width)


def _folder_of(path: Path) -> Path:
    """Where pictures are unless said: `images` beside the file, or the file's own folder."""
    beside = path.parent / "images"
    return beside if beside.is_dir() else path.parent


def load(
    path: str,
    images: str = "",
    masks: bool = False,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    repair: bool = False,
    keypoints: bool = False,
    semantic: bool = False,
    stuff: bool = True,
) -> Splits:
    """Random shares of one annotation file, or the splits of a folder laid out as COCO is.

    images: the folder of pictures; masks, keypoints: whether these are read; semantic: paint maps of masks (see
    `oculi.data.painting`), `background` being a class with a name where `stuff` is true; repair: leave out what is wrong.
    In a folder without test annotations the validation pictures are the test pictures as well.
    """
    root, masks = Path(path), masks or semantic
    if root.is_dir():
        splits = _official(root, masks, repair, keypoints)
    else:
        splits = shares(Coco(root, images, masks, repair, keypoints), validation, test, seed, root)
    return painted(splits, stuff) if semantic else splits


def annotation_files(root: Path) -> dict[str, tuple[Path, Path]]:
    """Annotation file and pictures of each split: annotations/instances_train*.json and train*/, or all in train/.

    Raises BadData where a split has several files.
    """
    found = {}
    for part in ("train", "val", "test"):
        files = sorted((root / "annotations").glob(f"instances_{part}*.json"))
        files = files or sorted((root / "annotations").glob(f"person_keypoints_{part}*.json"))
        files = files or sorted(root.glob(f"{part}*/_annotations.coco.json"))
        if len(files) > 1:
            raise BadData(f"{root}: expected one annotations/instances_{part}*.json, found {len(files)}")
        if files:
            beside = files[0].name.startswith("_")
            named = re.sub(r"^(instances|person_keypoints)_", "", files[0].stem)
            found[part] = files[0], files[0].parent if beside else root / named
    return found


def _official(root: Path, masks: bool, repair: bool, keypoints: bool) -> Splits:
    files = annotation_files(root)
    if "train" not in files or len(files) < 2:
        raise BadData(f"{root}: expected annotations/instances_train*.json and instances_val*.json")
    read, reports = {}, []
    for part, (file, pictures) in files.items():
        try:
            read[part] = Coco(file, pictures, masks, repair, keypoints)
        except BadData as error:
            reports.append(str(error))
    if reports:
        raise BadData("\n".join(reports))
    train = read["train"]
    for split, one in read.items():
        if (one.category_ids, one.class_names) != (train.category_ids, train.class_names):
            raise BadData(f"{root}: the {split} file has other categories than the train file")
    return official(read, root)


def write(
    dataset: Dataset, path: str | Path, images: str | Path = "", class_names: Sequence[str] | None = None
) -> list[str]:
    """Write pictures as PNG into `images` (default: beside the file) and, when all are there, the JSON file.

    Samples need an image, boxes and labels; masks are written as run lengths, keypoints as they are. Each file appears
    whole or not at all. Returns what is lost, a line per kind.
    """
    path = Path(path)
    folder = Path(images) if str(images) else path.parent / "images"
    names = label_names({"": dataset}, class_names)
    pictures: list[Entry] = []
    annotations: list[Entry] = []
    lost = Problems(path)
    for index, (name, sample) in enumerate(saved(dataset, folder, lost, KEPT)):
        annotations += _rows(sample, index + 1, len(annotations) + 1)
        height, width = sample.image.shape[-2:]  # type: ignore[union-attr]
        pictures.append({"id": index + 1, "file_name": name, "height": height, "width": width})
    categories: list[Entry] = [{"id": label + 1, "name": name} for label, name in enumerate(names)]
    points = max((len(row.get("keypoints", ())) // 3 for row in annotations), default=0)
    if points:
        categories = [{**one, "keypoints": [str(k) for k in range(points)]} for one in categories]
    document = {"images": pictures, "categories": categories, "annotations": annotations}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as stream:
        stream.write(json.dumps(document).encode())
    return lost.lines()


def _rows(sample: Sample, picture: int, first: int) -> list[Entry]:
    """A sample's annotations, numbered from `first`."""
    assert sample.boxes is not None
    assert sample.labels is not None
    corners = sample.boxes.detach().cpu().double()
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    areas = boxes[:, 2:].prod(1) if sample.masks is None else sample.masks.flatten(1).sum(1)
    crowd = torch.zeros(len(boxes)) if sample.crowd is None else sample.crowd
    rows = []
    for i, (box, label, area) in enumerate(zip(boxes.tolist(), sample.labels.tolist(), areas.tolist(), strict=True)):
        row = {"id": first + i, "image_id": picture, "category_id": label + 1, "bbox": box, "area": area}
        row["iscrowd"] = int(crowd[i])
        if sample.masks is not None:
            row["segmentation"] = encode(sample.masks[i])
        if sample.keypoints is not None:
            row["keypoints"] = sample.keypoints[i].double().flatten().tolist()
            row["num_keypoints"] = int((sample.keypoints[i, :, 2] > 0).sum())
        rows.append(row)
    return rows
