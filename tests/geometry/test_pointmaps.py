"""Pointmaps of World scenes give back the camera, the pose and the matches that made them; bad input is named."""

from __future__ import annotations

import math

import pytest
import torch

from oculi.data.world.pairs import WorldPairs
from oculi.data.world.scenes import Knobs
from oculi.geometry.camera import pixel_centers
from oculi.geometry.pointmaps import (
    change_frame,
    focal_length,
    pointmap,
    pointmap_depth,
    project_pointmap,
    reciprocal_matches,
    relative_pose,
    similarity,
)

SIZE = 64


@pytest.fixture(scope="module")
def pair():
    return WorldPairs(4, SIZE, 0, 0, Knobs(objects=(3, 5)), 0.6, (45.0, 55.0))[1]


def maps(pair):
    """X^{1,1}, X^{2,1}, X^{1,2}."""
    first, second = pointmap(pair.depth, pair.camera.K), pointmap(pair.next_depth, pair.next_camera.K)
    return (
        first,
        change_frame(second, pair.next_camera, pair.camera),
        change_frame(first, pair.camera, pair.next_camera),
    )


def test_every_point_projects_to_its_pixel_and_is_at_its_depth(pair):
    own, second, _ = maps(pair)
    grid = pixel_centers(SIZE, SIZE).view(SIZE, SIZE, 2)
    torch.testing.assert_close(project_pointmap(own, pair.camera.K), grid, atol=1e-4, rtol=0)
    torch.testing.assert_close(pointmap_depth(own), pair.depth)
    back = change_frame(second, pair.camera, pair.next_camera)
    torch.testing.assert_close(project_pointmap(back, pair.next_camera.K), grid, atol=1e-3, rtol=0)
    world, _ = pair.camera.rays()
    origin, direction = pair.camera.rays()
    there = origin + pair.depth.reshape(-1, 1) * direction
    seen = there @ pair.camera.R.T + pair.camera.t
    torch.testing.assert_close(own.reshape(-1, 3), seen, atol=1e-4, rtol=0)
    assert world.shape == there.shape


def test_the_focal_length_comes_back(pair):
    own, _, _ = maps(pair)
    true = float(pair.camera.K[0, 0])
    assert float(focal_length(own)) == pytest.approx(true, rel=1e-3)
    assert float(focal_length(3.7 * own)) == pytest.approx(true, rel=1e-3)
    g = torch.Generator().manual_seed(0)
    noisy = own * (1 + 0.02 * torch.randn(own.shape, generator=g))
    wild = torch.rand(SIZE, SIZE, generator=g) < 0.1
    noisy[wild] = 20 * torch.rand(int(wild.sum()), 3, generator=g)
    assert float(focal_length(noisy)) == pytest.approx(true, rel=0.03)
    both = focal_length(torch.stack([own, noisy]), torch.ones(2, SIZE, SIZE))
    assert both.shape == (2,)
    assert float(both[0]) == pytest.approx(true, rel=1e-3)


def test_points_without_confidence_have_no_say(pair):
    own = maps(pair)[0].clone()
    confidence = torch.ones(SIZE, SIZE)
    confidence[:30] = 0
    own[:20] = -5.0
    own[20:30] = torch.nan
    assert float(focal_length(own, confidence)) == pytest.approx(float(pair.camera.K[0, 0]), rel=1e-3)
    assert float(focal_length(own)) == pytest.approx(float(pair.camera.K[0, 0]), rel=1e-3)


def angle(R, true) -> float:
    cosine = (float((R.double() @ true.double().T).diagonal().sum()) - 1) / 2
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def test_the_relative_pose_comes_back(pair):
    own, _, other = maps(pair)
    motion = pair.next_camera.world_to_camera @ torch.linalg.inv(pair.camera.world_to_camera)
    found = relative_pose(own, 2.5 * other)
    assert angle(found.R, motion[:3, :3]) < 0.01
    assert float(found.scale) == pytest.approx(2.5, rel=1e-4)
    torch.testing.assert_close(found.matrix().float(), motion, atol=1e-3, rtol=0)
    g = torch.Generator().manual_seed(0)
    noisy = other + 0.2 * torch.randn(other.shape, generator=g)
    assert angle(relative_pose(own, noisy).R, motion[:3, :3]) < 1
    wrong = torch.rand(SIZE, SIZE, generator=g) < 0.3
    spoilt = torch.where(wrong[..., None], 10 * torch.rand(other.shape, generator=g), other)
    sure = torch.where(wrong, 1e-6, 1.0)
    assert angle(relative_pose(own, spoilt, sure, sure).R, motion[:3, :3]) < 0.1


def test_a_similarity_is_batched_and_differentiable():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, 20, 3, generator=g, dtype=torch.float64)
    R = torch.linalg.qr(torch.randn(5, 3, 3, generator=g, dtype=torch.float64))[0]
    R = R * torch.linalg.det(R)[:, None, None]
    y = 1.7 * (x @ R.transpose(1, 2) + torch.tensor([1.0, -2.0, 3.0]))
    found = similarity(x, y)
    torch.testing.assert_close(found.R, R)
    torch.testing.assert_close(found(x), y)
    one = similarity(x[2], y[2])
    torch.testing.assert_close(one.R, found.R[2])
    x.requires_grad_()
    found = similarity(x, y + 0.1 * torch.randn(y.shape, generator=g))
    (found.scale.sum() + found.R[:, 0, 1].sum()).backward()
    assert bool(torch.isfinite(x.grad).all())


def test_a_mirror_image_is_not_a_rotation():
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    found = similarity(x, x * torch.tensor([-1.0, 1, 1]))
    assert float(torch.linalg.det(found.R)) == pytest.approx(1)
    flat = x * torch.tensor([1.0, 1, 0])  # a plane fixes the rotation
    torch.testing.assert_close(similarity(flat, flat).R, torch.eye(3).double(), atol=1e-6, rtol=0)


def test_reciprocal_matches_are_true_and_what_is_hidden_has_none(pair):
    own, second, _ = maps(pair)
    step = float(pair.depth.mean() / pair.camera.K[0, 0])  # metres that a pixel covers
    pairs = reciprocal_matches(own.reshape(-1, 3), second.reshape(-1, 3), within=step)
    world = (own.reshape(-1, 3) - pair.camera.t) @ pair.camera.R
    pixel, depth = pair.next_camera.project(world)
    said = pixel_centers(SIZE, SIZE)[pairs[:, 1]]
    error = (said - pixel[pairs[:, 0]]).norm(dim=-1)
    assert len(pairs) > 800
    assert float((error <= 1).float().mean()) >= 0.95
    inside = ((pixel >= 0) & (pixel < SIZE)).all(-1)
    x, y = torch.where(inside[:, None], pixel, 0.0).long().unbind(-1)
    behind = inside & (
        depth > pair.next_depth[y, x] + 1
    )  # something nearer stands before them, and over their neighbours
    assert int(behind.sum()) > 20
    assert float(behind[pairs[:, 0]].sum() / behind.sum()) < 0.05


def test_reciprocal_matches_by_hand_and_in_pieces(monkeypatch):
    first = torch.tensor([[0.0, 0, 0], [1, 0, 0], [torch.nan, 0, 0], [9, 0, 0]])
    second = torch.tensor([[1.1, 0, 0], [0.2, 0, 0], [5.0, 0, 0]])
    assert reciprocal_matches(first, second).tolist() == [[0, 1], [1, 0], [3, 2]]
    assert reciprocal_matches(first, second, within=1.0).tolist() == [[0, 1], [1, 0]]
    assert reciprocal_matches(first[:0], second).shape == (0, 2)
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(200, 3, generator=g), torch.rand(150, 3, generator=g)
    whole = reciprocal_matches(a, b)
    monkeypatch.setattr("oculi.geometry.pointmaps.CHUNK", 1000)
    assert torch.equal(reciprocal_matches(a, b), whole)


@pytest.mark.unchecked
def test_bad_input_is_named():
    points = torch.randn(6, 3)
    line = torch.arange(6.0)[:, None] * torch.tensor([1.0, 2, 3])
    for bad in (line, line * 0, points * torch.nan):
        with pytest.raises(ValueError, match="do not fix a rotation"):
            similarity(bad, bad)
    with pytest.raises(ValueError, match="equal shapes"):
        similarity(points, points[:4])
    with pytest.raises(ValueError, match="confidence"):
        similarity(points, points, -torch.ones(6))
    with pytest.raises(ValueError, match="confidence"):
        similarity(points, points, torch.ones(5))
    with pytest.raises(ValueError, match="within"):
        reciprocal_matches(points, points, within=0.0)
    axis = torch.zeros(4, 4, 3)
    axis[..., 2] = 1
    for bad in (axis, -axis, axis * torch.nan):
        with pytest.raises(ValueError, match="focal length"):
            focal_length(bad)
