r"""Pascal VOC: one XML file per picture, lists of names, and PNG masks with a palette; read and written.

    JPEGImages/x.jpg          pictures
    Annotations/x.xml         object: name, difficult, bndbox (xmin ymin xmax ymax: first and last pixel, counted from 1)
    ImageSets/Main/train.txt  names of the splits, one a line; ImageSets/Segmentation those that have masks
    SegmentationClass/x.png   class per pixel: 0 background, then the classes, 255 unknown
    SegmentationObject/x.png  object per pixel, counted from 1 in the order of the XML file
    labelmap.txt              name:red,green,blue:: per class, background first, where a tool has written one

Pixel k counted from 1 covers k - 1 to k, so x1 = xmin - 1 and x2 = xmax. A `difficult` object is marked in `crowd`: it is
left out of training data and scored leniently. Without labelmap.txt the classes are VOC's twenty where no other name
occurs, else the names that occur, by the alphabet. XML that declares a document type (and could define entities) is refused.

Everingham, Van Gool, Williams, Winn, Zisserman: The Pascal Visual Object Classes (VOC) Challenge, IJCV 2010.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, TreeBuilder, indent, tostring
from xml.parsers import expat

import torch
from torch import Tensor

from oculi.data.datasets import Dataset, Splits
from oculi.data.formats.label_maps import map_fault, read_map, read_names, save_map, save_names
from oculi.data.formats.pictures import Pictures, Row, official, picture_size, pictures_in, shares, twice
from oculi.data.formats.problems import Problems, sound_box
from oculi.data.formats.writing import label_names, saved, whole
from oculi.data.sources import BadData
from oculi.types import Sample

NAMES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
FOLDERS = ("JPEGImages", "Annotations")
KEPT = ("boxes", "labels", "masks", "crowd", "semantic")


def load(
    path: str,
    masks: bool = False,
    semantic: bool = False,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    repair: bool = False,
) -> Splits:
    """The splits that ImageSets names, or random shares where it names none.

    masks: read SegmentationObject; semantic: read SegmentationClass, whose class 0 is `background`; with either, only the
    pictures that have them; repair: leave out what is wrong.
    """
    root = find(Path(path))
    problems, kinds = Problems(root), ("SegmentationObject",) * masks + ("SegmentationClass",) * semantic
    lists = root / "ImageSets" / ("Segmentation" if kinds else "Main")
    listed = {part: _listed(lists / f"{part}.txt", problems) for part in ("train", "val", "test")}
    everything = sorted(p.stem for p in (root / "Annotations").glob("*.xml"))
    if kinds:
        everything = [name for name in everything if (root / kinds[0] / f"{name}.png").is_file()]
    split = bool(listed["train"]) and bool(listed["val"] or listed["test"])
    wanted = {part: names for part, names in listed.items() if names} if split else {"all": everything}
    problems.add("pictures listed in two splits", twice(name for names in wanted.values() for name in set(names)))
    trees = {name: _tree(root, name, problems) for names in wanted.values() for name in dict.fromkeys(names)}
    names = class_names(root, trees, problems)
    files = _by_stem(root / "JPEGImages", problems)
    rows = {n: _row(root, n, tree, files, names, kinds, problems) for n, tree in trees.items() if tree is not None}
    left_out = problems.told(repair)
    shown = ["background", *names] if semantic else names
    parts = {
        part: Pictures([r for r in (rows.get(n) for n in dict.fromkeys(some)) if r is not None], shown, left_out)
        for part, some in wanted.items()
    }
    return official(parts, root) if split else shares(parts["all"], validation, test, seed, root)


def find(path: Path) -> Path:
    """The folder that holds JPEGImages and Annotations: this one, or the only one below. Raises BadData."""
    found = [p for p in (path, *sorted(path.glob("*")), *sorted(path.glob("*/*"))) if is_voc(p)]
    if not found:
        raise BadData(f"{path}: expected the folders {' and '.join(FOLDERS)}")
    if found[0] != path and len(found) > 1:
        raise BadData(f"{path}: expected one folder with {' and '.join(FOLDERS)}, found {', '.join(map(str, found))}")
    return found[0]


def is_voc(path: Path) -> bool:
    """Whether a folder holds JPEGImages and Annotations."""
    return all((path / name).is_dir() for name in FOLDERS)


def class_names(root: Path, trees: Mapping[str, Element | None], problems: Problems) -> list[str]:
    """From labelmap.txt or classes.txt, or from the objects."""
    names, _ = read_names(root)
    if names:
        problems.add("class names met twice", twice(names))
        return [name for name in dict.fromkeys(names) if name != "background"]
    said = {
        (one.findtext("name") or "").strip()
        for tree in trees.values()
        if tree is not None
        for one in tree.iterfind("object")
    }
    found = sorted(said - {""})
    return NAMES if found and set(found) <= set(NAMES) else found


def _listed(path: Path, problems: Problems) -> list[str]:
    """Names of pictures; a second column, as in the lists of one class, is passed over."""
    if not path.is_file():
        return []
    names = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    problems.add(f"pictures listed twice in {path.name}", twice(names))
    return names


def _by_stem(folder: Path, problems: Problems) -> dict[str, Path]:
    files = pictures_in(folder)
    problems.add("pictures with one name and two endings", twice(p.stem for p in files))
    return {p.stem: p for p in reversed(files)}


def _tree(root: Path, name: str, problems: Problems) -> Element | None:
    path = root / "Annotations" / f"{name}.xml"
    if ".." in Path(name).parts or not path.is_file():
        problems.add("annotations that are not on disk", [path])
        return None
    try:
        return read_xml(path.read_bytes())
    except ValueError as error:
        problems.add("annotations that cannot be read", [f"{path} ({error})"])
        return None


def read_xml(content: bytes) -> Element:
    """The root element. Raises ValueError for what is no XML, and for any document type declaration: no entities."""
    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, AssertionError, LookupError) as error:
        raise ValueError(f"not valid XML: {error}") from None


def _refuse(*_: Any) -> None:
    raise ValueError("a document type declaration is refused")


def _row(
    root: Path,
    name: str,
    tree: Element,
    files: Mapping[str, Path],
    names: Sequence[str],
    kinds: Sequence[str],
    problems: Problems,
) -> Row | None:
    path = files.get(name, root / "JPEGImages" / f"{name}.jpg")
    size, fault = picture_size(path)
    if fault:
        problems.add(fault, [path])
        return None
    said = [tree.findtext(f"size/{side}") for side in ("width", "height")]
    if None not in said and said != [str(side) for side in size]:
        problems.add("pictures of another size than the file says", [f"{path} is {size[0]} x {size[1]}"])
        return None
    row, places, seen = Row(path, name, []), [], set()
    objects = tree.findall("object")
    for place, one in enumerate(objects, start=1):
        said_name, box, fault = _object(one, names, size)
        key = (said_name, *box)
        fault = fault or ("met before" if key in seen else "")
        if fault:
            problems.add(f"objects {fault}", [f"{name} object {place}"])
            continue
        seen.add(key)
        places.append(place)
        row.boxes.append(box)  # type: ignore[union-attr]
        row.labels.append(names.index(said_name))
        row.crowd.append(one.findtext("difficult", "0").strip() == "1")
    most = {"SegmentationObject": len(objects), "SegmentationClass": len(names)}
    for kind in kinds:
        fault = map_fault(root / kind / f"{name}.png", size, most[kind])
        if fault:
            problems.add(fault, [root / kind / f"{name}.png"])
            return None
    row.more = partial(_maps, root, name, kinds, places) if kinds else None
    return row


def _object(one: Element, names: Sequence[str], size: tuple[int, int]) -> tuple[str, list[float], str]:
    """Name, box and what is wrong."""
    name = (one.findtext("name") or "").strip()
    if name not in names:
        return name, [], "of an unknown class"
    if one.findtext("difficult", "0").strip() not in ("0", "1"):
        return name, [], "with a difficult flag that is neither 0 nor 1"
    try:
        x1, y1, x2, y2 = (float(one.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        return name, [], "whose box is not four finite numbers"
    return name, *sound_box([x1 - 1, y1 - 1, x2, y2], *size)


def _maps(root: Path, name: str, kinds: Sequence[str], places: Sequence[int]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for kind in kinds:
        values = read_map(root / kind / f"{name}.png")
        if kind == "SegmentationClass":
            found["semantic"] = values
        else:
            found["masks"] = values == torch.tensor(places, dtype=torch.int64).reshape(-1, 1, 1)
    return found


def write(parts: Mapping[str, Dataset], folder: str | Path, class_names: Sequence[str] | None = None) -> list[str]:
    """Write splits ("train", "val", "test") as a VOC folder with PNG pictures; returns what is lost, a line per kind.

    Where masks overlap, the smaller object gets the pixels; a semantic map is made of the masks where there is none.
    """
    root, names = Path(folder), label_names(parts, class_names)
    lost, used = Problems(root), set[str]()
    held = {name: getattr(d[0], name) is not None for d in parts.values() if len(d) for name in ("masks", "semantic")}
    kinds = ["Main"] + ["Segmentation"] * any(held.values())
    extra = ["SegmentationObject"] * held.get("masks", False) + ["SegmentationClass"] * any(held.values())
    for name in ("Annotations", *(f"ImageSets/{kind}" for kind in kinds), *extra):
        (root / name).mkdir(parents=True, exist_ok=True)
    for part, dataset in parts.items():
        stems = []
        for file, given in saved(dataset, root / "JPEGImages", lost, KEPT, used):
            sample = _fitting(given, file, lost)
            stems.append(Path(file).stem)
            with whole(root / "Annotations" / f"{stems[-1]}.xml") as stream:
                stream.write(_xml(file, sample, names))
            _write_maps(root, stems[-1], sample, lost)
        for kind in kinds:
            with whole(root / "ImageSets" / kind / f"{part}.txt") as stream:
                stream.write("".join(f"{stem}\n" for stem in stems).encode())
    save_names(["background", *names], root)
    return lost.lines()


def _fitting(sample: Sample, file: str, lost: Problems) -> Sample:
    """With boxes of whole pixels, and one of the objects that have class and box in common."""
    assert sample.boxes is not None
    assert sample.labels is not None
    rounded = sample.boxes.double().round()
    rounded[:, 2:] = torch.maximum(rounded[:, 2:], rounded[:, :2] + 1)
    off = (rounded != sample.boxes).any(1).nonzero()[:, 0].tolist()
    lost.add("boxes rounded to whole pixels", [f"{file} object {k + 1}" for k in off])
    keys = [(label, *box) for label, box in zip(sample.labels.tolist(), rounded.tolist(), strict=True)]
    kept = [k for k, key in enumerate(keys) if keys.index(key) == k]
    twins = set(range(len(keys))) - set(kept)
    lost.add("objects with class and box of another, left out", [f"{file} object {k + 1}" for k in sorted(twins)])
    crowd = [] if sample.crowd is None else sample.crowd.nonzero()[:, 0].tolist()
    lost.add("crowd regions, written as difficult objects", [f"{file} object {k + 1}" for k in crowd])
    some = {name: getattr(sample, name) for name in ("labels", "masks", "crowd", "keypoints")}
    return replace(sample, boxes=rounded[kept], **{name: v[kept] for name, v in some.items() if v is not None})


def _xml(file: str, sample: Sample, names: Sequence[str]) -> bytes:
    assert sample.image is not None
    assert sample.boxes is not None
    assert sample.labels is not None
    root = Element("annotation")
    SubElement(root, "folder").text = "JPEGImages"
    SubElement(root, "filename").text = file
    size, (depth, height, width) = SubElement(root, "size"), sample.image.shape
    for name, value in (("width", width), ("height", height), ("depth", depth)):
        SubElement(size, name).text = str(value)
    SubElement(root, "segmented").text = str(int(sample.masks is not None))
    crowd = [False] * len(sample.boxes) if sample.crowd is None else sample.crowd.tolist()
    for box, label, difficult in zip(sample.boxes.int().tolist(), sample.labels.tolist(), crowd, strict=True):
        one = SubElement(root, "object")
        for name, text in (("name", names[label]), ("pose", "Unspecified"), ("truncated", "0")):
            SubElement(one, name).text = text
        SubElement(one, "difficult").text = str(int(difficult))
        place = SubElement(one, "bndbox")
        for name, value in zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, box[2], box[3]), strict=True):
            SubElement(place, name).text = str(value)
    indent(root)
    return tostring(root)


def _write_maps(root: Path, stem: str, sample: Sample, lost: Problems) -> None:
    if sample.masks is None and sample.semantic is None:
        return
    if sample.masks is not None:
        assert sample.labels is not None
        if len(sample.masks) > 254:
            raise ValueError(f"{stem}: expected at most 254 objects, got {len(sample.masks)}")
        overlaps = [stem] if bool((sample.masks.sum(0) > 1).any()) else []
        lost.add("pixels of masks that lie over each other", overlaps)
        objects = torch.zeros(sample.masks.shape[1:], dtype=torch.int64)
        for k in sample.masks.flatten(1).sum(1).argsort(descending=True).tolist():
            objects[sample.masks[k]] = k + 1
        save_map(objects, root / "SegmentationObject" / f"{stem}.png")
        classes = torch.cat([torch.zeros(1, dtype=torch.int64), sample.labels + 1])[objects]
    save_map(classes if sample.semantic is None else sample.semantic, root / "SegmentationClass" / f"{stem}.png")
