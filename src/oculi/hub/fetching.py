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
CONFIGS = ("config.json", "preprocessor_config.json")  # the second only in transformers' repositories
_TIMEOUT = 30.0  # seconds without a byte


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
    """Configuration and weights of `owner/repository[@revision]`, all of one commit."""
    repository, _, wanted = name.partition("@")
    revision = pin_of(name).get("revision") or wanted or "main"
    offline = is_offline(offline)
    files = {}
    for file in CONFIGS:
        path = _download(repository, file, revision, offline, required=file == CONFIGS[0])
        if path is not None:
            files[file] = path
            revision = path.parent.name  # the commit: the other files come from the same
    for file in WEIGHTS:
        path = _download(repository, file, revision, offline, required=file == WEIGHTS[-1])
        if path is not None:
            files[file] = path
            break
    for file, path in files.items():
        stated = path.resolve().name  # the cache names large files by the SHA-256 that the hub states
        if re.fullmatch("[0-9a-f]{64}", stated) and sha256(path) != stated:
            raise BadCheckpoint(f"{name}: {file}: broken in the cache; delete {path.resolve()} and load again")
    return Fetched(name, files, revision)


def _download(repository: str, file: str, revision: str, offline: bool, required: bool) -> Path | None:
    """The cached or fetched file; None where an optional one is not there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RevisionResolutionError

    try:
        return Path(hf_hub_download(repository, file, revision=revision, local_files_only=offline))
    except EntryNotFoundError as error:
        if not required:
            return None
        where = "not in the cache, and offline" if offline else first_line(error)
        wanted = " or ".join(WEIGHTS) if file in WEIGHTS else file
        raise BadCheckpoint(f"{repository}@{revision}: {wanted}: {where}") from None
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
