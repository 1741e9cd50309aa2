r"""Fetching published files: cached, pinned by hash, quiet when offline.

Files of the Hugging Face hub lie in huggingface_hub's cache, torchvision's in `~/.cache/oculi` (environment variable
OCULI_CACHE). A download takes its place under its final name only when it is whole and its hash is right.

Pins: `pins.json` in that folder remembers, for every name, the revision and the SHA-256 of each file at the first load
that succeeded. Later loads ask for that revision and refuse other bits, so a name means the same weights for ever on
this machine. `name@revision` (a branch, tag or commit of the hub) has a pin of its own; whoever wants the newest
weights deletes the line of the name. Beside that the hashes that the publishers state are checked on every load: the
hub's SHA-256 of large files, and the eight digits in torchvision's file names.

Offline (HF_HUB_OFFLINE=1, or `offline=True`) nothing is asked of the network: what is not cached is an error at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oculi.system import BadCheckpoint, replacing

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that the repository has
INDEX = "model.safetensors.index.json"  # of weights in several files
CONFIGS = ("config.json", "preprocessor_config.json")  # the second only in transformers' repositories
_TIMEOUT = 30.0  # seconds without a byte


class NotThere(BadCheckpoint):
    """The repository, or what is cached of it, has no such file."""


@dataclass
class Fetched:
    """Files of one published name, by their names there."""

    name: str
    files: dict[str, Path]
    revision: str | None = None
    _digests: dict[str, str] = field(default_factory=dict)

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file, computed once."""
        if not self._digests:
            self._digests = {name: sha256(path) for name, path in self.files.items()}
        return self._digests


def cache_folder() -> Path:
    """OCULI_CACHE, or `~/.cache/oculi`."""
    return Path(os.environ.get("OCULI_CACHE") or Path.home() / ".cache" / "oculi")


def is_offline(offline: bool = False) -> bool:
    """Whether the argument or HF_HUB_OFFLINE forbids the network."""
    return offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# pins ----------------------------------------------------------------------------------------------------------------


def pin_of(name: str) -> dict[str, Any]:
    """What was recorded for the name: {"revision": ..., "sha256": {file: digest}}, or {}."""
    return _pins().get(name, {})


def check(fetched: Fetched) -> None:
    """Raise BadCheckpoint where a file is not the one that was recorded."""
    pinned = pin_of(fetched.name).get("sha256", {})
    for file, digest in fetched.digests().items():
        if pinned.get(file, digest) != digest:
            raise BadCheckpoint(
                f"{fetched.name}: {fetched.files[file]}: expected the SHA-256 {pinned[file]} of the first load, got "
                f"{digest}; if the change is wanted, delete {fetched.name} from {cache_folder() / 'pins.json'}"
            )


def record(fetched: Fetched) -> None:
    """Remember revision and hashes of a name that is loaded for the first time."""
    pins = _pins()
    if fetched.name in pins:
        return
    pins[fetched.name] = {"revision": fetched.revision, "sha256": fetched.digests()}
    cache_folder().mkdir(parents=True, exist_ok=True)
    with replacing(cache_folder() / "pins.json") as temporary:
        temporary.write_text(json.dumps(pins, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _pins() -> dict[str, dict[str, Any]]:
    path = cache_folder() / "pins.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{path}: not readable ({error}); mend or delete it") from None


# the Hugging Face hub ------------------------------------------------------------------------------------------------


def from_hub(name: str, offline: bool = False) -> Fetched:
    """Configuration and weights of `owner/repository[@revision]`, all of one commit.

    A pinned name needs no network once its files are cached.
    """
    repository, _, revision = name.partition("@")
    offline = is_offline(offline)
    pinned = pin_of(name)
    if pinned.get("revision"):
        revision = pinned["revision"]
        files = {file: _download(repository, file, revision, offline) for file in pinned["sha256"]}
    else:
        config = _download(repository, CONFIGS[0], revision or "main", offline)
        revision = config.parent.name  # the commit: the other files come from the same
        files = {CONFIGS[0]: config}
        for kind in (CONFIGS[1:], (WEIGHTS[0], INDEX, *WEIGHTS[1:])):
            for file in kind:
                if path := _download_if_there(repository, file, revision, offline):
                    files[file] = path
                    break
        if INDEX in files:
            parts = sorted(set(shards(files[INDEX]).values()))
            files |= {part: _download(repository, part, revision, offline) for part in parts}
        elif not set(WEIGHTS) & set(files):
            _download(repository, WEIGHTS[0], revision, offline)  # says what is wrong
    fetched = Fetched(name, files, revision)
    for file, path in files.items():
        stated = path.resolve().name  # the cache names large files by the SHA-256 that the hub states
        if re.fullmatch("[0-9a-f]{64}", stated) and fetched.digests()[file] != stated:
            raise BadCheckpoint(f"{name}: {file}: broken in the cache; delete {path.resolve()} and load again")
    return fetched


def shards(index: Path) -> dict[str, str]:
    """The file of each tensor, as an index of weights in several files says. Raises BadCheckpoint where it is none."""
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        bad = [file for file in found.values() if not re.fullmatch(r"[\w.-]+\.safetensors", file)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"{index}: not an index of weights ({type(error).__name__}: {error})") from None
    if bad or not found:
        raise BadCheckpoint(
            f"{index}: weight_map: expected names of safetensors files, got {bad[0] if bad else 'none'}"
        )
    return found


def _download_if_there(repository: str, file: str, revision: str, offline: bool) -> Path | None:
    try:
        return _download(repository, file, revision, offline)
    except NotThere:
        return None


def _download(repository: str, file: str, revision: str, offline: bool) -> Path:
    """The cached or fetched file. Raises NotThere, or BadCheckpoint where the hub refuses."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RevisionResolutionError

    try:
        return Path(hf_hub_download(repository, file, revision=revision, local_files_only=offline))
    except EntryNotFoundError as error:
        why = "not in the cache, and offline" if offline else first_line(error)
        raise NotThere(f"{repository}@{revision}: {file}: {why}") from None
    except (OSError, HFValidationError, RevisionResolutionError) as error:
        raise BadCheckpoint(f"{repository}@{revision}: {file} cannot be fetched: {first_line(error)}") from None


# torchvision's server ------------------------------------------------------------------------------------------------


def from_url(name: str, url: str, offline: bool = False) -> Fetched:
    """A file whose name states the first digits of its SHA-256 (`resnet50-0676ba61.pth`)."""
    path = cache_folder() / url.rpartition("/")[2]
    if not path.is_file():
        if is_offline(offline):
            raise BadCheckpoint(f"{name}: {path}: not in the cache, and offline")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            try:
                with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, temporary.open("wb") as stream:
                    while block := answer.read(1 << 20):
                        stream.write(block)
            except OSError as error:
                raise BadCheckpoint(f"{name}: {url} cannot be fetched: {first_line(error)}") from None
            check_stated(path.name, temporary)
    check_stated(path.name, path)
    return Fetched(name, {path.name: path})


def check_stated(name: str, path: Path) -> None:
    """Raise BadCheckpoint where the file's SHA-256 does not begin as the digits in `name` say; other names pass."""
    stated = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", name)
    if stated and not (digest := sha256(path)).startswith(stated[1]):
        raise BadCheckpoint(f"{name}: broken or changed: expected a SHA-256 that begins with {stated[1]}, got {digest}")


def first_line(error: BaseException) -> str:
    """An error in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
