r"""Points with colours as PLY, the format that every viewer of point clouds opens (MeshLab, CloudCompare, Blender).

    ply / format binary_little_endian 1.0 / element vertex n / property float x, y, z / property uchar red, green, blue

`write_colmap` of `oculi.geometry.camera_conventions` writes cameras and tracks; this writes the points alone.

Source: Turk, The PLY polygon file format, Stanford, 1994.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

VERTEX = np.dtype([("place", "<f4", 3), ("colour", "u1", 3)])
HEADER = """ply
format binary_little_endian 1.0
element vertex {count}
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
end_header
"""


def write_ply(path: str | Path, points: Float[Tensor, "n 3"], colours: Shaped[Tensor, "n 3"] | None = None) -> Path:
    """Write points and their colours (bytes, or floats in [0, 1]; white where None) under a temporary name, then rename.

    Raises ValueError for shapes that do not fit and for NaN.
    """
    if points.ndim != 2 or points.shape[1] != 3 or not bool(torch.isfinite(points).all()):
        raise ValueError(f"points: expected n x 3 finite numbers, got shape {tuple(points.shape)}")
    if colours is None:
        colours = torch.full(points.shape, 255, dtype=torch.uint8)
    if colours.shape != points.shape:
        raise ValueError(f"colours: expected {tuple(points.shape)}, got {tuple(colours.shape)}")
    if colours.is_floating_point():
        colours = (colours.clamp(0, 1) * 255).round()
    vertices = np.empty(len(points), VERTEX)
    vertices["place"] = points.detach().cpu().numpy()
    vertices["colour"] = colours.detach().cpu().numpy()
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(HEADER.format(count=len(points)).encode() + vertices.tobytes())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_ply(path: str | Path) -> tuple[Float[Tensor, "n 3"], Shaped[Tensor, "n 3"]]:
    """Points and their colours (bytes) from a file as `write_ply` writes it. Raises ValueError for any other PLY."""
    header, end, body = Path(path).read_bytes().partition(b"end_header\n")
    words = header.split()
    place = words.index(b"vertex") + 1 if b"vertex" in words else len(words)
    count = int(words[place]) if place < len(words) and words[place].isdigit() else -1
    if header + end != HEADER.format(count=count).encode() or len(body) != count * VERTEX.itemsize:
        raise ValueError(f"{path}: not a binary PLY of x, y, z as float and red, green, blue as uchar")
    vertices = np.frombuffer(body, VERTEX)
    return torch.from_numpy(vertices["place"].copy()), torch.from_numpy(vertices["colour"].copy())
