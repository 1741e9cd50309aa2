"""Cubify: the counts of the golden table, watertight, outward, Euler's characteristic."""

import pytest
import torch

from oculi.ops.cubify import cubify
from oculi.ops.meshes import edges


def voxels(*places, size=4):
    grid = torch.zeros(1, size, size, size, dtype=torch.bool)
    for z, y, x in places:
        grid[0, z, y, x] = True
    return grid


def volume(vertices, faces):
    """Of a closed mesh whose faces are counter-clockwise from outside: by the divergence theorem."""
    a, b, c = vertices[faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


@pytest.mark.parametrize(
    ("places", "corners", "triangles"),
    [
        ([(1, 1, 1)], 8, 12),
        ([(1, 1, 1), (1, 1, 2)], 12, 20),
        ([(1, 1, 1), (1, 2, 1)], 12, 20),
        ([(1, 1, 1), (2, 1, 1)], 12, 20),
        ([(1, 1, 1), (3, 3, 3)], 16, 24),
        ([(0, 0, 0), (1, 1, 1)], 15, 24),  # they share one corner
    ],
)
def test_counts(places, corners, triangles):
    vertices, faces, grid = cubify(voxels(*places))
    assert (len(vertices), len(faces)) == (corners, triangles)
    assert not grid.any()


def test_one_voxel_is_where_it_should_be():
    vertices, faces, _ = cubify(voxels((3, 0, 1)))
    assert vertices.amin(0).tolist() == [-0.5, -1, 0.5]  # x, y, z
    assert vertices.amax(0).tolist() == [0, -0.5, 1]
    assert volume(vertices, faces) == pytest.approx(0.5**3)


@pytest.mark.parametrize("seed", range(5))
def test_random_grids_are_watertight_and_of_the_formulas_counts(seed):
    grid = torch.rand(3, 5, 4, 6, generator=torch.Generator().manual_seed(seed)) < 0.4
    vertices, faces, owner = cubify(grid)
    touching = sum(
        int((grid.narrow(k, 1, n - 1) & grid.narrow(k, 0, n - 1)).sum()) for k, n in ((1, 5), (2, 4), (3, 6))
    )
    assert len(faces) == 12 * int(grid.sum()) - 4 * touching
    assert (owner[faces] == owner[faces[:, :1]]).all()
    assert (owner.diff() >= 0).all()
    directed = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    there, back = (d[:, 0] * len(vertices) + d[:, 1] for d in (directed, directed.flip(1)))
    assert torch.equal(there.sort().values, back.sort().values), "every edge is walked both ways equally often"
    for k in range(3):
        own = faces[owner[faces[:, 0]] == k]
        cell = 8 / (5 * 4 * 6)
        assert volume(vertices, own) == pytest.approx(cell * int(grid[k].sum()), rel=1e-4)


def test_a_ball_is_a_sphere_and_a_ring_is_not():
    at = torch.arange(9) - 4
    z, y, x = torch.meshgrid(at, at, at, indexing="ij")
    ball, ring = x**2 + y**2 + z**2 <= 13, (x.abs().maximum(y.abs()) == 2) & (z == 0)
    for grid, euler in ((ball, 2), (ring, 0)):
        vertices, faces, _ = cubify(grid[None])
        assert len(vertices) - len(edges(faces)) + len(faces) == euler


@pytest.mark.unchecked
def test_nothing_and_bad_input():
    vertices, faces, owner = cubify(voxels())
    assert len(vertices) == len(faces) == len(owner) == 0
    with pytest.raises(ValueError, match=r"voxels.*float32"):
        cubify(torch.zeros(1, 2, 2, 2))
