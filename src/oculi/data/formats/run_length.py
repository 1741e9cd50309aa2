r"""Masks as COCO stores them: run lengths down the columns, background first, as numbers or packed into text; polygons.

    0 1 1      columns: 0 0 | 1 0 | 1 1     runs: 3 zeros, 1 one, 1 zero, 2 ones -> counts 3 1 1 2
    0 0 1

Packed: from the fourth run on the difference to the run before the last, each number in groups of five bits, lowest
first, a sixth bit saying that more follow and the last group's fifth bit being the sign; each group plus 48 is a letter.

Polygons are filled as the COCO tools do it: corners on a grid of a fifth of a pixel, and in each column of pixel centres
all pixels between the first and second crossing, the third and fourth, and so on. All results equal theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

GROUPS = 13  # of five bits: 64-bit numbers


def encode(mask: Bool[Tensor, "height width"], packed: bool = True) -> dict[str, Any]:
    """`{"size": [height, width], "counts": text or numbers}`."""
    height, width = mask.shape
    flat = mask.cpu().bool().T.flatten().numpy()
    edges = np.flatnonzero(np.diff(flat, prepend=np.array([False]))) if flat.size else np.zeros(0, dtype=np.int64)
    counts = np.diff(np.concatenate([[0], edges, [flat.size]]))
    return {"size": [int(height), int(width)], "counts": pack(counts) if packed else counts.tolist()}


def decode(runs: dict[str, Any]) -> Bool[Tensor, "height width"]:
    """The mask again. Raises ValueError where the runs do not fill the size exactly."""
    size, counts = runs.get("size"), runs.get("counts")
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)):
        raise ValueError(f"size: expected [height, width], got {size!r}")
    if isinstance(counts, str | bytes):
        numbers = unpack(counts)
    elif isinstance(counts, list | tuple) and all(isinstance(n, int) for n in counts):
        numbers = np.asarray(counts, dtype=np.int64)
    else:
        raise ValueError("counts: expected a list of whole numbers or text")
    height, width = size
    if (numbers < 0).any() or numbers.sum() != height * width:
        raise ValueError(f"counts: expected runs of {height} x {width} = {height * width} pixels, got {numbers.sum()}")
    flat = np.repeat(np.arange(len(numbers)) % 2 == 1, numbers)
    return torch.from_numpy(np.ascontiguousarray(flat.reshape(width, height).T))


def pack(counts: np.ndarray) -> str:
    """Run lengths as text."""
    values = np.asarray(counts, dtype=np.int64).copy()
    values[3:] -= np.asarray(counts)[1:-2]
    bits = 5 * np.arange(1, GROUPS)
    fits = (values[:, None] >= -(1 << (bits - 1))) & (values[:, None] < 1 << (bits - 1))
    length = 1 + (~fits).sum(1)
    place = np.arange(GROUPS)
    letters = (values[:, None] >> (5 * place) & 31) + 32 * (place < length[:, None] - 1) + 48
    return letters[place < length[:, None]].astype(np.uint8).tobytes().decode("ascii")


def unpack(text: str | bytes) -> np.ndarray:
    """Run lengths from text. Raises ValueError for what no packing gives."""
    raw = text.encode("ascii", "replace") if isinstance(text, str) else text
    letters = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    if not letters.size:
        return letters
    if ((letters < 0) | (letters > 63)).any() or letters[-1] & 32:
        raise ValueError("counts: not text that run lengths were packed into")
    last = letters & 32 == 0
    number = np.cumsum(last) - last
    place = np.arange(len(letters)) - np.flatnonzero(np.concatenate([[True], last[:-1]]))[number]
    if place.max() >= GROUPS:
        raise ValueError("counts: a run length of more than 64 bits")
    values = np.zeros(number[-1] + 1, dtype=np.int64)
    np.add.at(values, number, (letters & 31) << (5 * place))
    values -= np.where(letters[last] & 16, 1 << np.minimum(5 * (place[last] + 1), 62), 0)
    values[1::2], values[2::2] = np.cumsum(values[1::2]), np.cumsum(values[2::2])
    return values


def fill(polygons: Sequence[Sequence[float]], height: int, width: int) -> Bool[Tensor, "height width"]:
    """Which pixels lie in any of the polygons, each a list x1 y1 x2 y2 ..."""
    mask = np.zeros((height, width), dtype=bool)
    for polygon in polygons:
        mask |= _fill(np.asarray(polygon, dtype=np.float64).reshape(-1, 2), height, width)
    return torch.from_numpy(mask)


def _fill(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """One polygon: walk along the border in fifths of a pixel and toggle the column below every crossing."""
    grid = (5 * corners + 0.5).astype(np.int64)
    grid = grid[(grid != np.roll(grid, 1, 0)).any(1)]
    x, y = _walk(grid)
    if len(x) < 2:
        return np.zeros((height, width), dtype=bool)
    crossing = np.flatnonzero(x[1:] != x[:-1])
    fifths, top = np.minimum(x[1:], x[:-1])[crossing], np.minimum(y[1:], y[:-1])[crossing]
    column = fifths // 5
    inside = (fifths % 5 == 2) & (column >= 0) & (column < width)
    row = np.ceil(np.clip((top[inside] + 0.5) / 5 - 0.5, 0, height)).astype(np.int64)
    toggles = np.bincount(column[inside] * height + row, minlength=height * width + 1)[: height * width]
    return (np.cumsum(toggles) % 2 == 1).reshape(width, height).T


def _walk(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every grid point along the closed border, one per step of each edge's longer side."""
    start, end = grid, np.roll(grid, -1, 0)
    long = np.abs(end - start).max(1, initial=0)
    steep = np.abs(end - start)[:, 0] < np.abs(end - start)[:, 1]
    along = np.where(steep, 1, 0)
    rows = np.arange(len(grid))
    back = start[rows, along] > end[rows, along]
    low = np.where(back[:, None], end, start)
    rise = np.where(back, -1, 1) * (end - start)[rows, 1 - along]
    edge = np.repeat(rows, long + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(long + 1) - long - 1, long + 1)
    step = np.where(back[edge], long[edge] - step, step)
    slope = rise / np.maximum(long, 1)
    main = low[rows, along][edge] + step
    other = (low[rows, 1 - along][edge] + slope[edge] * step + 0.5).astype(np.int64)
    return np.where(steep[edge], other, main), np.where(steep[edge], main, other)
