"""Points on meshes and distances between sets of them."""

import pytest
import torch

from oculi.ops.cubify import cubify
from oculi.ops.meshes import chamfer, edges, nearest_distances, sample_surfaces, surface_areas


def test_areas_and_edges_of_cubes():
    vertices, faces, _ = cubify(torch.ones(2, 1, 1, 1, dtype=torch.bool))
    assert float(surface_areas(vertices, faces).sum()) == pytest.approx(2 * 6 * 4)
    assert len(edges(faces)) == 2 * 18
    lengths = (vertices[edges(faces)].diff(dim=1)[:, 0] ** 2).sum(1).sqrt()
    assert ((lengths - 2).abs() < 1e-5).logical_or((lengths - 8**0.5).abs() < 1e-5).all()


def test_points_lie_on_their_own_surface_by_area():
    torch.manual_seed(0)
    voxels = torch.ones(2, 1, 1, 1, dtype=torch.bool)
    vertices, faces, owner = cubify(voxels)
    vertices = torch.where(owner[:, None] == 1, vertices * torch.tensor([1.0, 1, 3]) + 10, vertices)
    points = sample_surfaces(vertices, faces.flip(0), owner, 2, 4000)
    small, large = points[0], points[1] - 10
    assert ((small.abs().amax(1) - 1).abs() < 1e-5).all()
    assert (((large / torch.tensor([1.0, 1, 3])).abs().amax(1) - 1).abs() < 1e-5).all()
    ends = ((large[:, 2].abs() - 3).abs() < 1e-4).float().mean()
    assert float(ends) == pytest.approx(8 / (8 + 4 * 12), abs=0.02)
    torch.testing.assert_close(points.mean(1), torch.tensor([[0.0] * 3, [10.0] * 3]), rtol=0, atol=0.12)


def test_points_pull_at_vertices():
    vertices, faces, owner = cubify(torch.ones(1, 1, 1, 1, dtype=torch.bool))
    vertices.requires_grad_()
    sample_surfaces(vertices, faces, owner, 1, 50).sum().backward()
    assert float(vertices.grad.sum()) == pytest.approx(150, rel=1e-4)


def test_distances_by_hand():
    one, other = torch.tensor([[[0.0, 0, 0], [2, 0, 0]]]), torch.tensor([[[0.0, 1, 0], [0, 3, 0], [2, 0, 2]]])
    there, back = nearest_distances(one, other)
    assert there.tolist() == [[1, 4]]
    assert back.tolist() == [[1, 9, 4]]
    assert float(chamfer(one, other)) == pytest.approx(((1 + 2) / 2 + (1 + 3 + 2) / 3) / 2)
    assert float(chamfer(one, one)) == 0


def test_an_object_without_faces_is_named():
    vertices, faces, owner = cubify(torch.ones(1, 1, 1, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"faces.*none of 1"):
        sample_surfaces(vertices, faces, owner, 2, 5)
