"""Lens distortion: round trips, OpenCV's answers, gradients, the fold."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oculi.geometry.camera import intrinsics
from oculi.geometry.distortion import (
    distort,
    distort_pixels,
    distortion_jacobian,
    undistort,
    undistort_image,
    undistort_pixels,
)

K = intrinsics(500.0, 520.0, 320.0, 240.0).double()
LENS = torch.tensor([-0.28, 0.09, 0.001, -0.0007, -0.012], dtype=torch.float64)


def pixels(n: int = 100) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.rand(n, 2, generator=g, dtype=torch.float64) * torch.tensor([640.0, 480.0])


small = st.floats(-0.05, 0.05)


@settings(max_examples=25, deadline=None)
@given(st.floats(-0.15, 0.3), small, st.floats(-0.005, 0.005), st.floats(-0.005, 0.005), st.floats(-0.02, 0.02))
def test_the_way_back_is_the_inverse(k1, k2, p1, p2, k3):
    lens = torch.tensor([k1, k2, p1, p2, k3], dtype=torch.float64)
    seen = distort_pixels(pixels(), K, lens)
    torch.testing.assert_close(undistort_pixels(seen, K, lens), pixels(), atol=1e-6, rtol=0)


def test_identity_without_distortion():
    assert torch.equal(distort(pixels(), torch.zeros(5).double()), pixels())
    torch.testing.assert_close(undistort_pixels(pixels(), K, torch.zeros(5).double()), pixels(), atol=1e-10, rtol=0)


def test_points_are_opencvs():
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-13)
    theirs = cv2.undistortPoints(pixels().numpy()[:, None], K.numpy(), LENS.numpy(), P=K.numpy(), criteria=criteria)
    np.testing.assert_allclose(undistort_pixels(pixels(), K, LENS).numpy(), theirs[:, 0], atol=1e-6)
    rays = np.concatenate([(pixels().numpy() - [320, 240]) / [500, 520], np.ones((100, 1))], 1)
    there, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), K.numpy(), LENS.numpy())
    np.testing.assert_allclose(distort_pixels(pixels(), K, LENS).numpy(), there[:, 0], atol=1e-9)


def test_picture_is_opencvs():
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    image = (0.5 + 0.25 * torch.sin(x / 9) + 0.25 * torch.cos(y / 7))[None, None]
    small = intrinsics(100.0, 104.0, 64.5, 48.5)
    theirs = small.double().numpy().copy()
    theirs[:2, 2] -= 0.5  # OpenCV's pixel centres are whole numbers
    expected = cv2.undistort(image[0, 0].numpy(), theirs, LENS.numpy())
    ours = undistort_image(image, small, LENS.float())[0, 0].numpy()
    # OpenCV rounds coordinates to 1/32 of a pixel; the steepest slope here is 0.05 a pixel
    np.testing.assert_allclose(ours[4:-4, 4:-4], expected[4:-4, 4:-4], atol=3e-3)


def test_jacobian_and_gradients():
    points = ((pixels(5) - 300) / 500).requires_grad_()
    lens = LENS.clone().requires_grad_()
    whole = torch.autograd.functional.jacobian(lambda p: distort(p, LENS), points.detach())
    own = torch.stack([whole[i, :, i] for i in range(5)])
    torch.testing.assert_close(distortion_jacobian(points.detach(), LENS), own)
    assert torch.autograd.gradcheck(undistort, (points, lens), atol=1e-5)


def test_beyond_the_fold_there_is_no_ideal_point():
    lens = torch.tensor([-0.3, 0, 0, 0, 0], dtype=torch.float64)  # radius 1.054 is the last, seen at 0.703
    answer = undistort(torch.tensor([[0.5, 0.0], [0.9, 0.0], [0.0, 5.0]], dtype=torch.float64), lens)
    assert torch.isfinite(answer[0]).all()
    assert torch.isnan(answer[1:]).all()
    assert torch.isnan(undistort(torch.tensor([[float("nan"), 0.0]]).double(), lens)).all()


def test_a_batch_of_lenses():
    lenses = torch.stack([LENS, 0 * LENS])
    together = undistort_pixels(pixels(7), K.expand(2, 3, 3), lenses)
    assert together.shape == (2, 7, 2)
    torch.testing.assert_close(together[0], undistort_pixels(pixels(7), K, LENS))


@pytest.mark.unchecked
def test_a_picture_refuses_nan():
    with pytest.raises(ValueError, match="finite"):
        undistort_image(torch.zeros(1, 1, 4, 4), torch.full((3, 3), float("nan")), torch.zeros(5))
