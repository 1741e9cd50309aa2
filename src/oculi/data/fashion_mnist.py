r"""Fashion-MNIST: 70,000 grey 28x28 pictures of ten kinds of clothes, from the idx files (plain or gzipped).

The files are looked for in `path`, else where Debian's package `dataset-fashion-mnist` puts them. With `hub=True` and no
files there, they come from the Hugging Face hub (`zalando-datasets/fashion_mnist`), which is the only network access.

Xiao, Rasul, Vollgraf: Fashion-MNIST, 2017, arXiv:1708.07747.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from oculi.data.datasets import Splits
from oculi.data.sources import BadData
from oculi.types import Sample

NAMES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_MAGIC = {2051: 3, 2049: 1}


def load(path: str = "", validation: int = 5000, hub: bool = False) -> Splits:
    """60,000 pictures less `validation` to train on, 10,000 to test. Raises BadData when a file is missing or broken."""
    folder = Path(path) if path else DEBIAN
    if hub and not folder.is_dir():
        return _from_hub(validation)
    train = _Idx(folder, "train")
    if not 0 <= validation < len(train):
        raise BadData(f"validation: expected 0 to {len(train) - 1}, got {validation}")
    cut = len(train) - validation
    return Splits(train.part(0, cut), train.part(cut, len(train)), _Idx(folder, "t10k"), NAMES)


class _Idx:
    """Pictures and labels of one part, as samples."""

    def __init__(self, folder: Path, part: str):
        self.images = torch.from_numpy(read_idx(folder, f"{part}-images-idx3-ubyte"))
        self.labels = torch.from_numpy(read_idx(folder, f"{part}-labels-idx1-ubyte")).long()
        if len(self.images) != len(self.labels):
            raise BadData(f"{folder}: {part} has {len(self.images)} pictures but {len(self.labels)} labels")
        self.prefix = part

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        image: Tensor = self.images[index][None]
        return Sample(image=image.float() / 255, label=int(self.labels[index]), id=f"{self.prefix}-{index}")

    def part(self, first: int, last: int) -> list[Sample]:
        return [self[i] for i in range(first, last)]


def read_idx(folder: Path, name: str) -> np.ndarray:
    """One idx file of unsigned bytes. Raises BadData when it is missing, truncated or not idx."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            break
    else:
        raise BadData(f"{folder / name}[.gz]: no such file; give path=, or install Debian's dataset-fashion-mnist")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        (magic,) = struct.unpack(">I", content[:4])
        shape = struct.unpack(f">{_MAGIC[magic]}I", content[4 : 4 + 4 * _MAGIC[magic]])
        return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape).copy()
    except (OSError, EOFError, KeyError, ValueError, struct.error) as error:
        raise BadData(f"{path}: not a whole idx file ({error})") from None


def _from_hub(validation: int) -> Splits:
    import io

    import pyarrow.parquet as pq
    from huggingface_hub import hf_hub_download
    from PIL import Image

    def part(name: str) -> list[Sample]:
        file = hf_hub_download(
            "zalando-datasets/fashion_mnist", f"fashion_mnist/{name}-00000-of-00001.parquet", repo_type="dataset"
        )
        table = pq.read_table(file).to_pydict()
        pictures = (np.array(Image.open(io.BytesIO(row["bytes"]))) for row in table["image"])
        return [
            Sample(image=torch.from_numpy(p)[None].float() / 255, label=label, id=f"{name}-{i}")
            for i, (p, label) in enumerate(zip(pictures, table["label"], strict=True))
        ]

    train = part("train")
    return Splits(train[: len(train) - validation], train[len(train) - validation :], part("test"), NAMES)
