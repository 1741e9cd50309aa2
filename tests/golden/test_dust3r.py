"""Worked numbers of DUSt3R and of what follows from pointmaps."""

from __future__ import annotations

import math

import torch

from oculi.classical.dust3r import confidence_loss
from oculi.classical.global_alignment import global_alignment
from oculi.geometry.camera import Camera, intrinsics
from oculi.geometry.pointmaps import change_frame, focal_length, pointmap, pointmap_depth, project_pointmap, similarity

QUARTER = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # a quarter turn about z


def test_pointmap_in_its_own_and_in_another_frame():
    """f = 2, 2 x 2 pixels: the first pixel's ray is (-.5 / 2, -.5 / 2, 1); X^{n,m} is n's map in camera m's axes."""
    K = intrinsics(2.0, 2.0, 1.0, 1.0)
    own = pointmap(torch.full((2, 2), 4.0), K)
    assert own.tolist() == [[[-1, -1, 4], [1, -1, 4]], [[-1, 1, 4], [1, 1, 4]]]
    assert pointmap_depth(own).tolist() == [[4, 4], [4, 4]]
    assert project_pointmap(own, K).tolist() == [[[0.5, 0.5], [1.5, 0.5]], [[0.5, 1.5], [1.5, 1.5]]]
    motion = torch.eye(4)
    motion[:3, :3], motion[:3, 3] = QUARTER, torch.tensor([0.0, 0, 10])
    moved = change_frame(own, Camera(K, torch.eye(4), 2, 2), Camera(K, motion, 2, 2))
    assert moved[0].tolist() == [[1, -1, 14], [1, 1, 14]]


def test_confidence_loss():
    """True points at mean distance 1; found ones off by .1 in the first view: C l - alpha log C, least at C = alpha / l."""
    true = torch.zeros(1, 2, 1, 2, 3)
    true[..., 2] = 1
    found = true.clone()
    found[0, 0, 0, 0, 2], found[0, 0, 0, 1, 2] = 1.1, 0.9  # mean distance still 1
    confidence, valid = torch.full((1, 2, 1, 2), 2.0), torch.ones(1, 2, 1, 2, dtype=torch.bool)
    first, second = confidence_loss(found, confidence, true, valid, 0.2)
    torch.testing.assert_close(first, torch.tensor(2 * 0.1 - 0.2 * math.log(2)))
    torch.testing.assert_close(second, torch.tensor(-0.2 * math.log(2)))
    best = torch.linspace(1.0, 4.0, 301)
    values = torch.stack([confidence_loss(found, c.expand(1, 2, 1, 2), true, valid, 0.2)[0] for c in best])
    assert abs(float(best[values.argmin()]) - 0.2 / 0.1) < 0.011


def test_focal_length_is_a_weighted_median():
    """u' = -1.5, -.5, .5, 1.5 and X/Z = -.15, -.05, .05, .1: the sum of distances says 10, squares would say 11.33."""
    rays = torch.tensor([-0.15, -0.05, 0.05, 0.1])
    points = torch.stack([3 * rays, torch.zeros(4), torch.full((4,), 3.0)], -1)[None]
    torch.testing.assert_close(focal_length(points), torch.tensor(10.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(focal_length(points, iterations=0), torch.tensor(0.425 / 0.0375))


def test_similarity():
    """s (R x + t) with s = 2, a quarter turn about z and t = (1, 0, 0)."""
    x = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    y = torch.tensor([[2.0, 0, 0], [2, 2, 0], [0, 0, 0], [2, 0, 2]])
    found = similarity(x, y)
    torch.testing.assert_close(found.scale, torch.tensor(2.0).double())
    torch.testing.assert_close(found.R, QUARTER.double())
    torch.testing.assert_close(found.t, torch.tensor([1.0, 0, 0]).double())


def test_global_alignment_of_exact_maps():
    """Scales multiply to 1 and the sum of distances is 0: a pair in units twice as large gets half the scale."""
    points = torch.rand(2, 4, 4, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([0.0, 0, 2])
    pairs = torch.tensor([[0, 1], [1, 0]])
    found = global_alignment(pairs, torch.stack([points, 4 * points.flip(0)]))
    torch.testing.assert_close(found.scales, torch.tensor([2.0, 0.5]))
    torch.testing.assert_close(found.points, 2 * points, atol=1e-5, rtol=0)
    assert found.objective[-1] < 1e-6
