r"""Cubify: from occupied voxels to a watertight triangle mesh.

Each occupied voxel is a cube; faces between two occupied voxels are inside and go, those that are left get two triangles
each, counter-clockwise seen from outside; corners at the same place are one vertex. One voxel gives 8 vertices and 12
faces, two side by side 12 and 20. With V voxels of which A pairs touch there are 12 V - 4 A faces.

Gkioxari, Malik, Johnson: Mesh R-CNN, 2019, arXiv:1906.02739.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

# the corners (z, y, x) of each side's square, counter-clockwise from outside: -z, +z, -y, +y, -x, +x
_SIDES = torch.tensor([
    [[0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1]],
    [[1, 0, 0], [1, 0, 1], [1, 1, 1], [1, 1, 0]],
    [[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0]],
    [[0, 1, 0], [1, 1, 0], [1, 1, 1], [0, 1, 1]],
    [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]],
    [[0, 0, 1], [0, 1, 1], [1, 1, 1], [1, 0, 1]],
])  # fmt: skip


def cubify(
    voxels: Bool[Tensor, "n depth height width"],
) -> tuple[Float[Tensor, "vertices 3"], Int[Tensor, "faces 3"], Int[Tensor, " vertices"]]:
    """Vertices (x, y, z, the grid being [-1, 1] each way), faces as their numbers, and which grid each vertex is of.

    >>> vertices, faces, grid = cubify(torch.ones(1, 1, 1, 1, dtype=torch.bool))
    >>> len(vertices), len(faces)
    (8, 12)
    """
    if voxels.ndim != 4 or voxels.dtype != torch.bool:
        raise ValueError(f"voxels: expected bool n x depth x height x width, got {voxels.dtype} {tuple(voxels.shape)}")
    sides, device = _SIDES.to(voxels.device), voxels.device
    around = F.pad(voxels, (1, 1, 1, 1, 1, 1))
    d, h, w = voxels.shape[1:]
    shifts = [(0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2)]
    free = torch.stack([~around[:, z : z + d, y : y + h, x : x + w] for z, y, x in shifts], 1)
    grid, side, z, y, x = (voxels[:, None] & free).nonzero().unbind(1)
    corner = torch.stack([z, y, x], 1)[:, None] + sides[side]
    size = torch.tensor([d, h, w], device=device)
    key = ((grid[:, None] * (d + 1) + corner[..., 0]) * (h + 1) + corner[..., 1]) * (w + 1) + corner[..., 2]
    known, number = key.unique(return_inverse=True)
    place = torch.stack([known // ((h + 1) * (w + 1)) % (d + 1), known // (w + 1) % (h + 1), known % (w + 1)], 1)
    faces = number[:, [[0, 1, 2], [0, 2, 3]]].flatten(0, 1)
    return (place * 2 / size - 1).flip(1), faces, known // ((d + 1) * (h + 1) * (w + 1))
