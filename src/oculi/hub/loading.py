r"""`oculi.load`: a system from a folder, a file or a published name.

    oculi.load("runs/mine")                     what `oculi.save` wrote, or a folder in timm's or transformers' format
    oculi.load("resnet50-0676ba61.pth")         a state dict in torchvision's format
    oculi.load("timm/resnet50.a1_in1k")         repositories of the Hugging Face hub, `@revision` at will
    oculi.load("microsoft/resnet-50")
    oculi.load("facebook/sam-vit-base")
    oculi.load("torchvision/resnet50")          torchvision's published files

What exists on disk wins over a published name. Files are data: safetensors, or `.pth` through torch's restricted
reader, which refuses everything but tensors; there is no fallback.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from oculi import system as saved
from oculi.hub import (
    fetching,
    segment_anything,
    set_prediction,
    timm,
    torchvision,
    torchvision_detectors,
    torchvision_segmenters,
    transformers,
)
from oculi.hub.renames import Description, build, nearest
from oculi.system import BadCheckpoint, System

TORCHVISION = (torchvision, torchvision_segmenters, torchvision_detectors)
TRANSFORMERS = (transformers, set_prediction, segment_anything)
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


def load(source: str | Path, system: type[System] | None = None, offline: bool = False) -> System:
    """The system, in eval mode, with its input contract, statistics and class names.

    system: your own class, for a folder that `oculi.save` wrote. offline: take published names from the cache alone.
    Raises BadCheckpoint, which names the file or the tensor and what was expected.
    """
    path = Path(source)
    if path.is_dir():
        files = {file.name: file for file in path.iterdir()}
        return _from_files(files, str(source), path, system)
    if path.is_file():
        fetching.check_stated(path.name, path)
        return _from_torchvision(_file_of(path), path)
    if isinstance(source, Path) or not _NAME.fullmatch(source):
        raise BadCheckpoint(f"{source}: no such folder or file, nor a published name such as timm/resnet50.a1_in1k")
    return _published(source, offline, system)


def _published(name: str, offline: bool, system: type[System] | None) -> System:
    owner, _, short = name.partition("/")
    if owner == "torchvision":
        files = _all(TORCHVISION, "FILES")
        if short not in files:
            raise BadCheckpoint(f"{name}: torchvision's files: {nearest(files, short)}")
        file = files[short]
        fetched = fetching.from_url(name, torchvision.URL + file.name, offline)
        fetching.check(fetched)
        built = _from_torchvision(file, fetched.files[file.name])
    else:
        fetched = fetching.from_hub(name, offline)
        fetching.check(fetched)
        built = _from_files(fetched.files, name, next(iter(fetched.files.values())).parent, system)
    fetching.record(fetched)
    return built


def _all(sources: Iterable[Any], table: str) -> dict[str, Any]:
    """One table of several modules."""
    return {name: entry for source in sources for name, entry in getattr(source, table).items()}


def _file_of(path: Path) -> torchvision.File:
    return torchvision.file_of(path, _all(TORCHVISION, "FILES"), _all(TORCHVISION, "NETWORKS"))


def _from_torchvision(file: torchvision.File, path: Path) -> System:
    tensors = read_tensors(path)
    (tables,) = (source for source in TORCHVISION if file.network in source.NETWORKS)
    return build(_described(str(path), tables.describe, file, tensors), tensors, str(path))


def _from_files(files: Mapping[str, Path], source: str, folder: Path, system: type[System] | None) -> System:
    """A folder's system; the keys of `config.json` tell the format."""
    config = _read_json(files, "config.json", source) if "config.json" in files else {}
    foreign = {"architecture", "model_type"} & set(config)
    if not foreign or "system" in config:
        return saved.load(folder, system)
    tensors = _tensors_of(files, source)
    if "architecture" in foreign:
        described = _described(source, timm.describe, config, tensors, source)
    else:
        preprocessor = _read_json(files, "preprocessor_config.json", source)
        kind = str(config["model_type"])
        tables = next((tables for tables in TRANSFORMERS if kind in tables.NETWORKS), None)
        if tables is None:
            raise BadCheckpoint(f"{source}: model_type: {nearest(_all(TRANSFORMERS, 'NETWORKS'), kind)}")
        described = _described(source, tables.describe, config, preprocessor, tensors, source)
    return build(described, tensors, source)


def _tensors_of(files: Mapping[str, Path], source: str) -> dict[str, Tensor]:
    """The weights of a folder, in one file or in several that an index names."""
    weights = next((files[name] for name in fetching.WEIGHTS if name in files), None)
    if weights is not None:
        return read_tensors(weights)
    if fetching.INDEX not in files:
        raise BadCheckpoint(f"{source}: expected {' or '.join(fetching.WEIGHTS)}, found neither")
    wanted = fetching.shards(files[fetching.INDEX])
    tensors: dict[str, Tensor] = {}
    for part in sorted(set(wanted.values())):
        if part not in files:
            raise BadCheckpoint(f"{source}: {part} is missing")
        tensors |= read_tensors(files[part])
    if differing := sorted(set(wanted) ^ set(tensors)):
        raise BadCheckpoint(f"{source}: {fetching.INDEX} and its files differ, first in {differing[0]}")
    return tensors


def _described(source: str, describe: Any, *arguments: Any) -> Description:
    """A description; what a configuration lacks or has of the wrong kind is an error that names it."""
    try:
        return describe(*arguments)
    except BadCheckpoint:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BadCheckpoint(f"{source}: configuration: {type(error).__name__}: {error}") from None


def _read_json(files: Mapping[str, Path], name: str, source: str) -> dict[str, Any]:
    if name not in files:
        raise BadCheckpoint(f"{source}: {name} is missing")
    try:
        content = json.loads(files[name].read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{source}: {name}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise BadCheckpoint(f"{source}: {name}: expected an object, got {type(content).__name__}")
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file, or from a state dict by torch's restricted reader."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise BadCheckpoint(f"{path}: broken weights ({error})") from None
    except Exception as error:  # torch raises many kinds for broken files and for what its reader refuses
        raise BadCheckpoint(f"{path}: not a plain state dict ({fetching.first_line(error)})") from None
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise BadCheckpoint(f"{path}: expected a dictionary of tensors, got {type(content).__name__} of something else")
    return dict(content)
