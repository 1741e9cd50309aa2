r"""What lies at a path: which format it is, and the options that open it for what a system reads.

recognise("photos/", {"label"})               {"name": "folder", "path": "photos/"}
open_data(**recognise("coco/", {"boxes"}))

.json        COCO, or COCO panoptic            folder with JPEGImages, Annotations     Pascal VOC
.yaml        YOLO                              folder with images and PNG masks        semantic PNG
folder with annotations/instances_train*.json or train/_annotations.coco.json          COCO
folder with annotations/panoptic_train*.json                                           COCO panoptic
folder with a YAML file of train and names                                             YOLO
folder of folders of pictures                                                          a class per folder
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from oculi.data.formats import coco, semantic_png, voc, yolo
from oculi.data.formats.coco_file import read_document
from oculi.data.image_folder import SUFFIXES
from oculi.data.sources import BadData

HOLDS = {  # what the samples of each format can have
    "coco": ("boxes", "labels", "masks", "keypoints", "semantic", "panoptic"),
    "panoptic_png": ("semantic", "panoptic"),
    "voc": ("boxes", "labels", "masks", "semantic"),
    "yolo": ("boxes", "labels", "masks", "keypoints", "semantic", "panoptic"),
    "semantic_png": ("semantic",),
    "folder": ("label",),
}
LOOKED_FOR = """a .json file of COCO; a .yaml file of YOLO; or a folder with
- JPEGImages and Annotations (VOC)
- annotations/instances_train*.json and instances_val*.json, or train/_annotations.coco.json and valid/ (COCO)
- annotations/panoptic_train*.json and panoptic_val*.json (COCO panoptic)
- a YAML file with train and names (YOLO)
- images and masks with PNG files, or train and val with such folders (semantic PNG)
- a folder of pictures per class"""
TRUTHS = ("label", "boxes", "masks", "keypoints", "semantic", "panoptic")


def recognise(path: str | Path, reads: Collection[str] = ()) -> dict[str, Any]:
    """Options of `open_data`: the source's name, the path, and which costly fields to read, as `reads` (the fields of a
    Batch that a system learns from) says. Raises BadData for what is none of these, or holds nothing that is read."""
    root = Path(path)
    name = next((name for name, fits in _KINDS.items() if fits(root)), None)
    if name is None:
        if not root.exists():
            raise BadData(f"{root}: no such file or folder")
        raise BadData(f"{root}: not recognised. Looked for {LOOKED_FOR}")
    if name == "coco" and root.is_dir() and "panoptic" in reads and _is_panoptic(root):
        name = "panoptic_png"
    wanted = [truth for truth in TRUTHS if truth in reads]
    held = [truth for truth in wanted if truth in HOLDS[name]]
    if wanted and not held:
        told = f"it holds {', '.join(HOLDS[name])}, but {', '.join(wanted)} is what the system learns from"
        raise BadData(f"{root}: recognised as {name}; {told}")
    options: dict[str, Any] = {"name": name, "path": str(root)}
    if name in ("coco", "voc", "yolo"):
        painted = "semantic" in wanted or "panoptic" in wanted
        options |= {"masks": True} if "masks" in wanted or (painted and name != "voc") else {}
        options |= {"semantic": True} if painted else {}
        options |= {"stuff": False} if painted and "boxes" in wanted and name != "voc" else {}
        options |= {"keypoints": True} if "keypoints" in wanted and name != "voc" else {}
    return options


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_document(path) if path.suffix == ".json" and path.is_file() else {}
    except BadData:
        return {}


def _is_panoptic(path: Path) -> bool:
    if path.is_dir():
        return any((path / "annotations").glob("panoptic_train*.json"))
    notes = _json(path).get("annotations") or [{}]
    return isinstance(notes[0], dict) and "segments_info" in notes[0]


def _is_coco(path: Path) -> bool:
    return "train" in coco.annotation_files(path) if path.is_dir() else path.suffix == ".json"


def _is_yolo(path: Path) -> bool:
    if path.is_dir():
        return any(yolo.is_yolo(file) for file in path.glob("*.y*ml"))
    return path.suffix in (".yaml", ".yml")


def _is_voc(path: Path) -> bool:
    return path.is_dir() and any(voc.is_voc(p) for p in (path, *path.glob("*"), *path.glob("*/*")))


def _is_folder(path: Path) -> bool:
    classes = path / "train" if (path / "train").is_dir() else path
    if not classes.is_dir():
        return False
    held = [p for p in classes.iterdir() if p.is_dir() and any(f.suffix.lower() in SUFFIXES for f in p.rglob("*"))]
    return len(held) > 1


_KINDS: dict[str, Callable[[Path], bool]] = {
    "panoptic_png": lambda path: _is_panoptic(path) and not (path.is_dir() and _is_coco(path)),
    "coco": lambda path: (path.is_file() or path.is_dir()) and _is_coco(path),
    "voc": _is_voc,
    "yolo": lambda path: path.exists() and _is_yolo(path),
    "semantic_png": lambda path: bool(semantic_png.folders(path)),
    "folder": _is_folder,
}
