"""Triangulation: exact from exact pixels, no worse than OpenCV, many views, points that are not there."""

import cv2
import pytest
import torch

from oculi.geometry.camera import Camera
from oculi.geometry.pnp import pose_matrix
from oculi.geometry.triangulation import (
    projected,
    projection_matrix,
    reprojection_error,
    triangulate,
    triangulation_angle,
)
from two_views import two_views


def cameras(views, shifts=((0.0, 0, 0),)):
    poses = [torch.eye(4, dtype=torch.float64), pose_matrix(views.R, views.t)]
    poses += [pose_matrix(views.R.T, torch.tensor(s, dtype=torch.float64)) for s in shifts if any(s)]
    poses = torch.stack(poses)
    return Camera(views.K.expand(len(poses), 3, 3), poses, 480, 640)


def test_exact_pixels_give_the_exact_points():
    views = two_views()
    P = projection_matrix(cameras(views))
    pixels = torch.stack([views.points, views.targets])
    for steps in (0, 5):
        points, valid = triangulate(P, pixels, steps=steps)
        torch.testing.assert_close(points, views.world, atol=1e-9, rtol=0)
        assert valid.all()
    theirs = cv2.triangulatePoints(P[0].numpy(), P[1].numpy(), views.points.T.numpy(), views.targets.T.numpy())
    torch.testing.assert_close(points, torch.from_numpy((theirs[:3] / theirs[3]).T.copy()), atol=1e-6, rtol=0)


def test_noisy_pixels_leave_less_error_than_opencvs():
    views = two_views(1, noise=1.0)
    P, pixels = projection_matrix(cameras(views)), torch.stack([views.points, views.targets])
    points, _ = triangulate(P, pixels)
    theirs = cv2.triangulatePoints(P[0].numpy(), P[1].numpy(), views.points.T.numpy(), views.targets.T.numpy())
    theirs = torch.from_numpy((theirs[:3] / theirs[3]).T.copy())
    ours, others = (reprojection_error(P, p, pixels).square().sum(0) for p in (points, theirs))
    assert bool((ours <= others + 1e-9).all())
    assert float(ours.sum()) < float(others.sum())


def test_many_views_some_of_which_do_not_see():
    views = two_views(2)
    P = projection_matrix(cameras(views, ((0.5, 0, 0), (0, 0.7, 0.2))))
    pixels, _ = projected(P, views.world)
    seen = torch.ones(4, 100, dtype=torch.bool)
    seen[0, :50] = seen[2, 30:60] = False
    seen[1:, 90:] = False  # one view is left
    pixels = torch.where(seen[..., None], pixels, torch.nan)
    points, valid = triangulate(P, pixels, seen)
    assert valid[:90].all()
    assert not valid[90:].any()
    torch.testing.assert_close(points[:90], views.world[:90], atol=1e-9, rtol=0)


def test_gradients_reach_pixels_and_cameras():
    views = two_views(3, n=4, noise=0.5)
    P = projection_matrix(cameras(views)).requires_grad_()
    pixels = torch.stack([views.points, views.targets]).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, x: triangulate(p, x, steps=0)[0], (P, pixels), atol=1e-3, rtol=1e-3)
    points, _ = triangulate(P, pixels)
    points.sum().backward()
    assert torch.isfinite(pixels.grad).all()
    assert torch.isfinite(P.grad).all()


def test_without_a_baseline_nothing_is_valid():
    views = two_views(4)
    P = views.K @ torch.eye(3, 4, dtype=torch.float64)
    _, valid = triangulate(torch.stack([P, P]), torch.stack([views.points, views.points]))
    assert not valid.any()


def test_points_behind_are_not_valid():
    views = two_views(5)
    P = projection_matrix(cameras(views))
    behind = views.world * torch.tensor([1.0, 1, -1])
    pixels, depth = projected(P, behind)
    _, valid = triangulate(P, pixels)
    assert not valid[(depth < 0).any(0)].any()


def test_angle():
    centers = torch.tensor([[-1.0, 0, 0], [1, 0, 0]])
    angle = triangulation_angle(centers, torch.tensor([[0.0, 0, 1], [0, 0, 1e6]]))
    assert float(angle[0]) == pytest.approx(torch.pi / 2)
    assert float(angle[1]) < 1e-5


@pytest.mark.unchecked
def test_bad_input():
    views = two_views()
    P, pixels = projection_matrix(cameras(views)), torch.stack([views.points, views.targets])
    with pytest.raises(ValueError, match="at least 2 views"):
        triangulate(P[:1], pixels[:1])
    with pytest.raises(ValueError, match="P, pixels: expected"):
        triangulate(P, pixels[:1])
    with pytest.raises(ValueError, match="finite"):
        triangulate(P, pixels * float("nan"))
