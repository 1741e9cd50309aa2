"""Homographies: exact from four matches, OpenCV's answer from many, pure rotations, degenerate input."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oculi.geometry.camera import Camera, intrinsics
from oculi.geometry.homography import (
    apply_homography,
    homography_dlt,
    homography_of_rotation,
    solve_dlt,
    transfer_error,
)

SQUARE = torch.tensor([[0.0, 0], [100, 0], [100, 80], [0, 80]], dtype=torch.float64)


def moved(seed: int, n: int = 4) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return SQUARE + 30 * (torch.rand(4, 2, generator=g, dtype=torch.float64) - 0.5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_four_exact_matches_give_the_exact_map(seed):
    target = moved(seed)
    H = homography_dlt(SQUARE, target)
    torch.testing.assert_close(apply_homography(H, SQUARE), target, atol=1e-9, rtol=0)
    expected = cv2.getPerspectiveTransform(SQUARE.numpy().astype(np.float32), target.numpy().astype(np.float32))
    np.testing.assert_allclose(H.numpy(), expected, atol=1e-3)


def test_many_noisy_matches_give_opencvs_least_squares():
    g = torch.Generator().manual_seed(0)
    truth = homography_dlt(SQUARE, moved(3))
    source = 100 * torch.rand(50, 2, generator=g, dtype=torch.float64)
    target = apply_homography(truth, source) + 0.1 * torch.randn(50, 2, generator=g, dtype=torch.float64)
    ours = homography_dlt(source, target)
    theirs, _ = cv2.findHomography(source.numpy(), target.numpy(), method=0)
    mapped = apply_homography(ours, SQUARE)
    torch.testing.assert_close(mapped, apply_homography(torch.from_numpy(theirs), SQUARE), atol=0.05, rtol=0)
    assert float(transfer_error(ours, SQUARE, apply_homography(truth, SQUARE)).max()) < 0.3


def test_a_camera_that_only_rotates():
    K = intrinsics(100.0, 110.0, 50.0, 40.0).double()
    R = torch.linalg.matrix_exp(torch.tensor([[0, -0.1, 0.2], [0.1, 0, 0.05], [-0.2, -0.05, 0]], dtype=torch.float64))
    pose = torch.eye(4, dtype=torch.float64)
    turned = pose.clone()
    turned[:3, :3] = R
    points = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points[:, 2] += 6
    first, _ = Camera(K, pose, 80, 100).project(points)
    second, _ = Camera(K, turned, 80, 100).project(points)
    H = homography_of_rotation(K, R)
    torch.testing.assert_close(apply_homography(H, first), second, atol=1e-9, rtol=0)
    torch.testing.assert_close(homography_dlt(first, second), H / H[2, 2], atol=1e-8, rtol=1e-8)


def test_a_batch_equals_its_members():
    targets = torch.stack([moved(i) for i in range(5)])
    together = homography_dlt(SQUARE.expand(5, 4, 2), targets)
    for i in range(5):
        torch.testing.assert_close(together[i], homography_dlt(SQUARE, targets[i]))


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (SQUARE[:3], SQUARE[:3], "at least 4"),
        (SQUARE, SQUARE[:3], "equal shapes"),
        (SQUARE * float("nan"), SQUARE, "finite"),
        (torch.arange(12.0).view(6, 2), torch.arange(12.0).view(6, 2), "one line"),
        (torch.zeros(4, 2), SQUARE.float(), "one line"),
        (SQUARE[[0, 1, 2, 2]], SQUARE[[0, 1, 2, 2]], "one line"),
    ],
)
@pytest.mark.unchecked
def test_bad_input(source, target, message):
    with pytest.raises(ValueError, match=message):
        homography_dlt(source, target)


def test_three_points_on_a_line_do_not_fix_it():
    line = torch.tensor([[0.0, 0], [1, 0], [2, 0], [0, 1]], dtype=torch.float64)
    assert not bool(solve_dlt(line, SQUARE)[1])
    assert not bool(solve_dlt(SQUARE, line)[1])


def test_points_sent_to_infinity_have_infinite_error():
    H = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    assert transfer_error(H, torch.zeros(1, 2), torch.zeros(1, 2)).isinf().all()
