r"""YOLO: a text file per picture, a line per object, numbers relative to the picture's sides; read and written.

    data.yaml                 path, train, val, test (folders or lists of pictures), names (list, or number: name)
    images/train/x.jpg        pictures
    labels/train/x.txt        class cx cy w h                    a box
                              class x1 y1 x2 y2 x3 y3 ...        an outline of three corners or more
                              class cx cy w h x y v x y v ...    a box with points, where data.yaml says kpt_shape: [n, 3]

A picture without a text file has no objects; pictures come in the order of their names. The class is the number as it
stands; a number that `names` jumps over is named in the report and, if that is repaired, keeps its place under its
number. A box of an outline is the one around it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from oculi.data.datasets import Dataset, Splits
from oculi.data.formats.pictures import SUFFIXES, Pictures, Row, official, picture_size, twice
from oculi.data.formats.polygons import crosses_itself, joined, polygon_box, polygons
from oculi.data.formats.problems import Problems, sound_box
from oculi.data.formats.run_length import fill
from oculi.data.formats.writing import label_names, saved, whole
from oculi.data.painting import painted
from oculi.data.sources import BadData
from oculi.types import Sample

KEPT = ("boxes", "labels", "masks", "crowd", "keypoints")


def load(
    path: str,
    masks: bool = False,
    keypoints: bool = False,
    semantic: bool = False,
    stuff: bool = True,
    repair: bool = False,
) -> Splits:
    """The splits of a data.yaml, or of the folder that holds it.

    masks: fill outlines (every object needs one); keypoints: read points; semantic: paint maps of masks (see
    `oculi.data.painting`), `background` being a class with a name where `stuff` is true; repair: leave out what is wrong.
    """
    masks = masks or semantic
    file = find(Path(path))
    described = _described(file)
    problems = Problems(file)
    names = class_names(described["names"], problems)
    root = file.parent / str(described.get("path") or ".")
    root = root if root.is_dir() else file.parent
    points = _points(described, file) if keypoints else 0
    width = _points(described, file) if "kpt_shape" in described else 0
    found: dict[str, list[Path]] = {}
    for part in ("train", "val", "test"):
        if described.get(part):
            found[part] = _pictures(root, described[part], file, part)
            problems.add(f"pictures met twice in {part}", twice(found[part]))
    problems.add("pictures met in two splits", twice(p for files in found.values() for p in set(files)))
    rows = {
        part: [_row(p, names, width, masks, points > 0, problems) for p in dict.fromkeys(files)]
        for part, files in found.items()
    }
    left_out = problems.told(repair)
    parts = {part: Pictures([r for r in some if r], names, left_out) for part, some in rows.items()}
    return painted(official(parts, file), stuff) if semantic else official(parts, file)


def find(path: Path) -> Path:
    """The data.yaml that `path` is or holds. Raises BadData."""
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise BadData(f"{path}: no such file")
        return path
    found = sorted(p for p in path.glob("*.y*ml") if is_yolo(p)) if path.is_dir() else []
    if len(found) != 1:
        raise BadData(f"{path}: expected one YAML file with train and names, found {len(found)}")
    return found[0]


def is_yolo(path: Path) -> bool:
    """Whether a file is YAML with `train` and `names`."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError):
        return False
    return isinstance(content, dict) and {"train", "names"} <= set(content)


def _described(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadData(f"{file}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not {"train", "names"} <= set(content):
        raise BadData(f"{file}: expected the keys train and names")
    return content


def class_names(names: Any, problems: Problems) -> list[str]:
    """Names by number, of a list or of numbers with names."""
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(isinstance(k, int) and k >= 0 for k in names):
        raise BadData(f"{problems.source}: names: expected a list, or numbers with their names, got {names!r}")
    problems.add("names met twice", twice(str(name) for name in names.values()))
    problems.add("numbers that names jumps over", sorted(set(range(max(names))) - set(names))[:1000])
    if max(names) >= 100_000:
        raise BadData(f"{problems.source}: names: expected numbers below 100000, got {max(names)}")
    return [str(names.get(k, k)) for k in range(max(names) + 1)]


def _points(described: Mapping[str, Any], file: Path) -> int:
    """How many numbers the points of an object take."""
    shape = described.get("kpt_shape")
    if not (isinstance(shape, list) and len(shape) == 2 and shape[1] == 3 and isinstance(shape[0], int)):
        raise BadData(f"{file}: kpt_shape: expected [points, 3], got {shape!r}")
    return 3 * shape[0]


def _pictures(root: Path, said: Any, file: Path, part: str) -> list[Path]:
    """The pictures of a folder, or those that a text file lists; of several where a list is said."""
    files: list[Path] = []
    for one in said if isinstance(said, list) else [said]:
        place = root / str(one)
        if not place.exists() and str(one).startswith("../"):
            place = root / str(one)[3:]  # as some tools write it, relative to a folder that nobody has
        if place.is_dir():
            files += sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES)
        elif place.is_file():
            lines = (line.strip() for line in place.read_text(encoding="utf-8").splitlines())
            files += [place.parent / line if line.startswith("./") else root / line for line in lines if line]
        else:
            raise BadData(f"{file}: {part}: there is no {place}")
    if not files:
        raise BadData(f"{file}: {part}: no pictures ({', '.join(sorted(SUFFIXES))})")
    return files


def label_file(picture: Path) -> Path:
    """Where a picture's objects stand.

    >>> str(label_file(Path("a/images/train/x.jpg")))
    'a/labels/train/x.txt'
    """
    parts = list(picture.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _row(path: Path, names: Sequence[str], width: int, masks: bool, keypoints: bool, problems: Problems) -> Row | None:
    size, fault = picture_size(path)
    if fault:
        problems.add(fault, [path])
        return None
    row, outlines, points, seen = Row(path, path.stem, []), [], [], set[str]()
    file = label_file(path)
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    except UnicodeDecodeError:
        problems.add("label files that are no text", [file])
        return None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        fault, label, box, outline, marks = _object(line, len(names), width, size, masks)
        fault = fault or ("met before" if line in seen else "")
        if fault:
            problems.add(f"objects {fault}", [f"{file}:{number}"])
            continue
        seen.add(line)
        row.boxes.append(box)  # type: ignore[union-attr]
        row.labels.append(label)
        row.crowd.append(False)
        outlines.append(outline)
        points.append(marks)
    if masks or keypoints:
        row.more = partial(_more, size, outlines if masks else None, points if keypoints else None, width // 3)
    return row


Parsed = tuple[str, int, list[float], list[float], list[float]]


def _object(line: str, classes: int, width: int, size: tuple[int, int], masks: bool) -> Parsed:
    """What is wrong with a line; its class, box, outline and points in pixels."""
    wrong: Parsed = ("", 0, [], [], [])
    try:
        label, *values = (float(word) for word in line.split())
    except ValueError:
        return "that are no numbers", *wrong[1:]
    if not all(math.isfinite(v) for v in (label, *values)):
        return "with numbers that are not finite", *wrong[1:]
    if label != int(label) or not 0 <= label < classes:
        return "of an unknown class", *wrong[1:]
    pixels = [round(v * size[k % 2], 9) for k, v in enumerate(values)]
    outline: list[float] = []
    if len(values) == 4 + width:
        x, y, w, h = (v * size[k % 2] for k, v in enumerate(values[:4]))
        corners = [round(v, 9) for v in (x - w / 2, y - h / 2, x + w / 2, y + h / 2)]
        marks = [v if k % 3 == 2 else round(v * size[k % 3], 9) for k, v in enumerate(values[4:])]
    elif width == 0 and len(values) >= 6 and len(values) % 2 == 0:
        outline, corners, marks = pixels, polygon_box([pixels]), []
        if masks and crosses_itself(pixels):
            return "with an outline that crosses itself", *wrong[1:]
    else:
        return f"with {len(values)} numbers after the class", *wrong[1:]
    if masks and not outline:
        return "without an outline", *wrong[1:]
    box, fault = sound_box(corners, *size)
    return fault, int(label), box, outline, marks


def _more(
    size: tuple[int, int], outlines: list[list[float]] | None, points: list[list[float]] | None, count: int
) -> dict[str, Tensor]:
    width, height = size
    found: dict[str, Tensor] = {}
    if outlines is not None:
        masks = [fill([one], height, width) for one in outlines]
        found["masks"] = torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool)
    if points is not None:
        found["keypoints"] = torch.tensor(points, dtype=torch.float32).reshape(-1, count, 3)
    return found


def write(parts: Mapping[str, Dataset], folder: str | Path, class_names: Sequence[str] | None = None) -> list[str]:
    """Write splits ("train", "val", "test") with PNG pictures and data.yaml; returns what is lost, a line per kind.

    An object with a mask becomes an outline (its parts and holes joined by bridges), with points a box and points,
    otherwise a box. Crowd flags have no place.
    """
    root, names = Path(folder), label_names(parts, class_names)
    lost, points = Problems(root), 0
    for part, dataset in parts.items():
        (root / "labels" / part).mkdir(parents=True, exist_ok=True)
        for file, sample in saved(dataset, root / "images" / part, lost, KEPT):
            if sample.crowd is not None:
                marked = sample.crowd.nonzero()[:, 0].tolist()
                lost.add("crowd flags: objects like any other now", [f"{file} object {k + 1}" for k in marked])
            if sample.keypoints is not None:
                points = max(points, sample.keypoints.shape[1])
            with whole(root / "labels" / part / f"{Path(file).stem}.txt") as stream:
                stream.write("".join(f"{line}\n" for line in _lines(sample, file, lost)).encode())
    document: dict[str, Any] = {"path": ".", **{part: f"images/{part}" for part in parts}}
    document |= {"kpt_shape": [points, 3]} if points else {}
    document["names"] = dict(enumerate(names))
    with whole(root / "data.yaml") as stream:
        stream.write(yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode())
    return lost.lines()


def _lines(sample: Sample, file: str, lost: Problems) -> list[str]:
    assert sample.image is not None
    assert sample.boxes is not None
    assert sample.labels is not None
    height, width = sample.image.shape[-2:]
    lines = []
    for k, (box, label) in enumerate(zip(sample.boxes.double().tolist(), sample.labels.tolist(), strict=True)):
        x1, y1, x2, y2 = box
        values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
        if sample.keypoints is not None:
            lost.add("masks, where there are points", [f"{file} object {k + 1}"] if sample.masks is not None else [])
            for x, y, seen in sample.keypoints[k].double().tolist():
                values += [x / width, y / height, seen]
        elif sample.masks is not None:
            outline = joined(polygons(sample.masks[k]))
            if outline and max(abs(a - b) for a, b in zip(polygon_box([outline]), box, strict=True)) > 1e-4:
                lost.add("boxes that are not those around their masks", [f"{file} object {k + 1}"])
            lost.add("empty masks, written as boxes", [] if outline else [f"{file} object {k + 1}"])
            values = [v / (width, height)[i % 2] for i, v in enumerate(outline)] or values
        lines.append(" ".join([str(label), *map(repr, values)]))
    for twin in twice(lines):
        lost.add("objects with class and place of another, left out", [f"{file} object {lines.index(twin) + 1}"])
    return list(dict.fromkeys(lines))
