"""Three points: OpenCV's solutions; refinement: OpenCV's answer."""

import cv2
import numpy as np
import pytest
import torch

from oculi.geometry.pnp import pose_matrix, refine_pose, solve_three_points, transformed
from oculi.geometry.rotations import rotation_from_vector
from two_views import two_views


def test_three_points_have_opencvs_solutions():
    for seed in range(20):
        views = two_views(seed, n=3)
        _, targets = views.rays
        poses, valid = solve_three_points(views.world, targets)
        truth = pose_matrix(views.R, views.t)
        assert float((poses[valid] - truth).abs().amax((1, 2)).min()) < 1e-7
        count, _, shifts = cv2.solveP3P(
            views.world.numpy(), targets.contiguous().numpy(), np.eye(3), None, flags=cv2.SOLVEPNP_P3P
        )
        assert int(valid.sum()) == count
        for shift in shifts:
            assert float((poses[valid][:, :3, 3] - torch.from_numpy(shift[:, 0])).abs().amax(1).min()) < 1e-4
        seen = transformed(poses[valid], views.world)
        assert float((seen[..., :2] / seen[..., 2:] - targets).abs().max()) < 1e-9
        torch.testing.assert_close(torch.linalg.det(poses[valid][:, :3, :3]), torch.ones(count, dtype=torch.float64))


def test_a_batch_equals_its_members():
    views = [two_views(seed, n=3) for seed in range(4)]
    points, targets = torch.stack([v.world for v in views]), torch.stack([v.rays[1] for v in views])
    together, valid = solve_three_points(points, targets)
    for i in range(4):
        alone, good = solve_three_points(points[i], targets[i])
        torch.testing.assert_close(together[i][valid[i]], alone[good])


def test_degenerate_triangles_have_no_solution():
    views = two_views(n=3)
    points, targets = views.world.clone(), views.rays[1].clone()
    points[2] = 2 * points[1] - points[0]  # on one line
    assert not solve_three_points(points, targets)[1].any()
    points[2], targets[2] = points[1], targets[1]
    assert not solve_three_points(points, targets)[1].any()
    assert not solve_three_points(torch.zeros(3, 3), torch.zeros(3, 2))[1].any()


def test_refinement_is_opencvs():
    views = two_views(1, noise=1.0)
    _, targets = views.rays
    start = pose_matrix(rotation_from_vector(torch.full((3,), 0.05).double()) @ views.R, views.t + 0.1)
    found = refine_pose(start, views.world, targets)
    vector, shift = cv2.solvePnPRefineLM(
        views.world.numpy(),
        targets.contiguous().numpy(),
        np.eye(3),
        None,
        cv2.Rodrigues(start[:3, :3].numpy())[0],
        start[:3, 3:].numpy().copy(),
    )
    np.testing.assert_allclose(found[:3, :3].numpy(), cv2.Rodrigues(vector)[0], atol=1e-5)
    np.testing.assert_allclose(found[:3, 3:].numpy(), shift, atol=1e-4)


def test_weights_switch_points_off_even_nan():
    views = two_views(2)
    targets = views.rays[1].clone()
    targets[:20] = torch.nan
    truth = pose_matrix(views.R, views.t)
    start = pose_matrix(views.R, views.t + 0.1)
    found = refine_pose(start, views.world, targets, (torch.arange(100) >= 20).double())
    torch.testing.assert_close(found, truth, atol=1e-9, rtol=0)


def test_a_start_that_cannot_be_bettered_is_kept():
    views = two_views(3)
    truth = pose_matrix(views.R, views.t)
    torch.testing.assert_close(refine_pose(truth, views.world, views.rays[1]), truth, atol=1e-9, rtol=0)
    broken = truth * torch.nan
    assert torch.isnan(refine_pose(broken, views.world, views.rays[1])).any()


def test_pose_matrix():
    matrix = pose_matrix(torch.eye(3), torch.tensor([1.0, 2, 3]))
    assert matrix.tolist() == [[1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]
    assert float(transformed(matrix, torch.zeros(1, 3))[0, 2]) == pytest.approx(3)
