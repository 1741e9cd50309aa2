"""Keypoints of the World's objects: the furthest points of solids, projected, and who hides them."""

import pytest
import torch

from oculi.data.world.dataset import World
from oculi.data.world.shapes import SHAPES, dot, extreme, inside
from oculi.data.world.truth import KEYPOINTS


@pytest.mark.parametrize("kind", range(len(SHAPES)), ids=SHAPES)
def test_no_point_of_the_solid_is_further(kind):
    g = torch.Generator().manual_seed(kind)
    size = torch.tensor([0.9, 0.3, 0.7])
    points = (torch.rand(3, 40000, generator=g) * 2 - 1) * 1.3
    kinds = torch.full((points.shape[1],), kind)
    points = points[:, inside(kinds, points, size[:, None].expand_as(points))]
    directions = torch.randn(3, 50, generator=g)
    directions = torch.cat([directions / dot(directions, directions).sqrt(), torch.eye(3), -torch.eye(3)], 1)
    n = directions.shape[1]
    sizes = size[:, None].expand(3, n)
    found = extreme(torch.full((n,), kind), directions, sizes)
    reach, furthest = dot(found, directions), (directions.T @ points).amax(1)
    assert (furthest <= reach + 1e-4).all()
    assert (reach - furthest < 0.2).all()
    held = inside(torch.full((n,), kind), found * 0.9999 if kind != 4 else found, sizes * 1.001)
    assert held[:50].all()  # the middle of a ring of furthest points is not in a torus


@pytest.fixture(scope="module")
def world():
    return World(24, size=64, seed=5, fields=("keypoints", "depth"))


def test_free_objects_have_their_points_at_the_borders_of_their_boxes(world):
    seen = 0
    for index in range(24):
        sample = world[index]
        assert sample.keypoints.shape == (len(sample.boxes), len(KEYPOINTS), 3)
        for points, box in zip(sample.keypoints, sample.boxes, strict=True):
            if not (points[:, 2] == 2).all():
                continue
            top, bottom, left, right, middle = points[:, :2]
            width = float(box[2] - box[0])
            seen += 1
            assert abs(float(left[0] - box[0])) < 1 + 0.12 * width
            assert abs(float(right[0] - box[2])) < 1 + 0.12 * width
            assert float(top[1]) < float(middle[1]) < float(bottom[1])
            assert float(left[0]) < float(middle[0]) < float(right[0])
            assert (middle > box[:2]).all()
            assert (middle < box[2:]).all()
    assert seen > 20


def test_what_is_outside_is_nought_and_a_hidden_point_is_marked(world):
    flags = torch.cat([world[i].keypoints for i in range(24)])
    outside = flags[..., 2] == 0
    assert not flags[outside].any()
    assert (flags[~outside][:, :2] >= 0).all()
    assert (flags[~outside][:, :2] < 64).all()
    assert (flags[..., 2] == 1).any()
    assert (flags[..., 2] == 2).float().mean() > 0.5


def test_same_bits_alone_and_in_a_block(world):
    assert torch.equal(world.make([7])[0].keypoints, world[7].keypoints)
