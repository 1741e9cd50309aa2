r"""A class (or an object) per pixel as a PNG file, by palette, grey level or colour, and the files that name the classes.

classes.txt     a name a line, 0 first
labelmap.txt    name:red,green,blue:: a line, 0 first; `#` begins a remark
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from oculi.data.formats.pictures import picture_size
from oculi.data.formats.writing import save_png, whole
from oculi.types import IGNORE

Colours = Sequence[Sequence[int]]


def palette() -> np.ndarray:
    """VOC's 256 colours: the bits of the number dealt to red, green and blue in turn, the highest first.

    >>> palette()[[0, 1, 2, 3, 255]].tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [224, 224, 192]]
    """
    number = np.arange(256)[:, None, None]
    place = np.arange(8)[:, None]
    bits = (number >> (3 * place + np.arange(3))) & 1
    return (bits << (7 - place)).sum(1).astype(np.uint8)


def read_map(path: Path, colours: Colours | None = None) -> Int[Tensor, "height width"]:
    """A PNG's numbers, palette or grey; colours are looked up in `colours` (or VOC's palette). Raises ValueError for
    those that are not there."""
    with Image.open(path) as picture:
        if picture.mode in ("P", "L", "1"):
            return torch.from_numpy(np.array(picture).astype(np.int64))
        found = np.array(picture.convert("RGB")).astype(np.int64) @ (65536, 256, 1)
    given = np.asarray(palette() if colours is None else [*colours, palette()[IGNORE]], dtype=np.int64)
    known, where = np.unique(given @ (65536, 256, 1), return_index=True)
    place = np.minimum(np.searchsorted(known, found), len(known) - 1)
    if (known[place] != found).any():
        raise ValueError("a colour that no class has")
    numbers = where[place]
    return torch.from_numpy(numbers if colours is None else np.where(numbers == len(colours), IGNORE, numbers))


def map_fault(path: Path, size: tuple[int, int], most: int, colours: Colours | None = None) -> str:
    """What is wrong with a label map for a picture of `size` (width, height), its numbers being 0 to `most` or 255."""
    there, fault = picture_size(path)
    if fault:
        return fault.replace("pictures", "masks")
    if there != size:
        return "masks of another size than the picture"
    try:
        values = read_map(path, colours)
    except ValueError:
        return "masks with a colour that nothing has"
    except (OSError, SyntaxError):
        return "masks that cannot be read"
    return "masks with a number that nothing has" if bool(((values > most) & (values != IGNORE)).any()) else ""


def save_map(values: Int[Tensor, "height width"], path: Path) -> None:
    """A label map as PNG with a palette in VOC's colours, one byte a pixel."""
    picture = Image.fromarray(values.cpu().numpy().astype(np.uint8))
    picture.putpalette(palette().ravel().tolist())
    save_png(picture, path)


def read_names(folder: Path) -> tuple[list[str], Colours | None]:
    """The classes' names by number, and their colours, as the folder's labelmap.txt or classes.txt says; else none."""
    file = folder / "labelmap.txt"
    if file.is_file():
        lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
        fields = [line.split(":") for line in lines if line]
        try:
            colours = [[int(v) for v in one[1].split(",")] for one in fields]
        except (IndexError, ValueError):
            colours = []
        sound = all(len(c) == 3 for c in colours) and len(colours) == len(fields)
        return [one[0] for one in fields], colours if sound else None
    file = folder / "classes.txt"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return [line.strip() for line in text.splitlines() if line.strip()], None


def save_names(names: Sequence[str], folder: Path) -> None:
    """labelmap.txt with VOC's colours."""
    with whole(folder / "labelmap.txt") as stream:
        lines = [f"{n}:{','.join(map(str, c))}::\n" for n, c in zip(names, palette().tolist(), strict=False)]
        stream.write("".join(["# label:color_rgb:parts:actions\n", *lines]).encode())
