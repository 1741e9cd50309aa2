"""Worked numbers of cameras, interpolation and statistics."""

from itertools import pairwise

import pytest
import torch

from oculi.classical.bayes_filter import Belief, update
from oculi.classical.camera_calibration import board_views, intrinsics_from_homographies, true_corners
from oculi.classical.chessboard import board_corners
from oculi.classical.kmeans import KMeans
from oculi.classical.parameter_estimation import bernoulli_map, normal_mle
from oculi.classical.pca import PCA, truncated_svd
from oculi.geometry.distortion import distort_pixels, undistort_pixels
from oculi.geometry.homography import homography_dlt, random_homography
from oculi.ops.sampling import cubic_weights, resize, sample


def test_camera_calibration_three_exact_boards():
    cameras = board_views(3, 4, 5, 0.03, 240, 320)
    corners = true_corners(cameras, torch.zeros(5).double(), 4, 5, 0.03)
    H = homography_dlt(board_corners(4, 5, 0.03)[:, :2].expand(3, -1, 2), corners)
    K = intrinsics_from_homographies(H, 240, 320, skew=True)
    assert float((K - cameras.K[0]).norm() / cameras.K[0].norm()) < 1e-6


def test_lens_undistortion_inverts_distortion():
    K = torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]).double()
    lens = torch.tensor([-0.2, 0.05, 1e-3, -1e-3, 0.0]).double()
    p = torch.tensor([[0.5, 0.5], [320.0, 240.0], [600.0, 30.0]]).double()
    assert float((undistort_pixels(distort_pixels(p, K, lens), K, lens) - p).abs().max()) < 1e-6


def test_interpolation():
    square = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    assert sample(square, torch.tensor([[[1.0, 1.0]]]), "bilinear").item() == 1.5
    assert resize(square, 4, 4, "nearest")[0, 0, 0].tolist() == [0, 0, 1, 1]
    for a in (-0.75, -0.5):
        assert float(cubic_weights(0.3 - torch.arange(-1.0, 3.0), a).sum()) == pytest.approx(1)


def test_random_homography_and_its_inverse():
    H = random_homography(4, 100, 100, torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.linalg.inv(H) @ H, torch.eye(3).double().expand(4, 3, 3))


def test_kmeans_inertia_never_increases():
    history = KMeans(3, 1).fit(torch.rand(60, 2, generator=torch.Generator().manual_seed(0))).history
    assert all(b <= a + 1e-12 for a, b in pairwise(history))


def test_pca_of_a_line_and_eckart_young():
    found = PCA(1).fit(torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]))
    torch.testing.assert_close(found.components, torch.tensor([[0.6, 0.8]]).double())
    assert found.variances.tolist() == pytest.approx([25.0])
    A = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    U, s, V = truncated_svd(A, 1)
    assert float((A - (U * s) @ V).square().sum()) == pytest.approx(5.0)


def test_estimators():
    mean, variance = normal_mle(torch.tensor([2.0, 4.0, 9.0]))
    assert (float(mean), float(variance)) == pytest.approx((5.0, 26 / 3))
    assert round(bernoulli_map(torch.tensor([1] * 7 + [0] * 3)), 4) == 0.6667


def test_kalman_gain():
    one = torch.ones(1, 1).double()
    after = update(Belief(torch.tensor([10.0]).double(), 3 * one), torch.tensor([14.0]).double(), one, one)
    assert after.mean.tolist() == [13.0]  # K = 3 / (3 + 1)
    assert after.covariance.tolist() == [[0.75]]
