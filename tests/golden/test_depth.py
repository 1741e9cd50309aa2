"""Depth's worked numbers: the scale-invariant loss, the usual figures, photometric error, smoothness, reprojection."""

import math

import torch

from oculi.classical.monocular_depth_supervised import scale_invariant_log_loss
from oculi.classical.monocular_depth_unsupervised import edge_aware_smoothness, photometric_error, reproject
from oculi.geometry.camera import intrinsics
from oculi.metrics.depth import depth_errors, median_scaled


def test_scale_invariant_loss_by_hand():
    truth = torch.tensor([[[1.0, 2.0], [4.0, 8.0]]])
    d = torch.tensor([0.1, -0.2, 0.3, 0.0])
    said = truth.log() + d.view(1, 2, 2)
    for balance in (0.0, 0.5, 1.0):
        expected = float(d.square().mean() - balance * d.mean() ** 2)
        assert math.isclose(float(scale_invariant_log_loss(said, truth, balance)), expected, rel_tol=1e-5)
    pairs = (d[:, None] - d).square().sum() / (2 * 16)  # the paper's other way to write it, over all pairs of pixels
    assert math.isclose(float(scale_invariant_log_loss(said, truth, 1.0)), float(pairs), rel_tol=1e-5)


def test_a_common_factor_costs_half_and_nothing_at_balance_one():
    truth = torch.rand(2, 4, 4) + 1
    said = (3 * truth).log()
    factor = math.log(3) ** 2
    for balance, share in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0)):
        loss = float(scale_invariant_log_loss(said, truth, balance))
        assert math.isclose(loss, share * factor, rel_tol=1e-5, abs_tol=1e-6)


def test_holes_do_not_count_and_carry_no_gradient():
    truth = torch.tensor([[[1.0, 0.0, math.inf, math.nan, 2.0]], [[0.0, 0.0, 0.0, 0.0, 0.0]]])
    said = torch.zeros(2, 1, 5, requires_grad=True)
    loss = scale_invariant_log_loss(said, truth, 0.5)
    d = math.log(2)
    assert math.isclose(float(loss.detach()), d * d / 2 - 0.5 * (d / 2) ** 2, rel_tol=1e-6)
    loss.backward()
    assert bool(torch.isfinite(said.grad).all())
    assert said.grad[0, 0, 1:4].tolist() == [0, 0, 0]
    assert float(said.grad[1].abs().max()) == 0


def test_figures_by_hand():
    errors = depth_errors(torch.tensor([[[2.0, 6.0]]]), torch.tensor([[[1.0, 5.0]]]))
    expected = {
        "abs_rel": (1 / 1 + 1 / 5) / 2,
        "sq_rel": (1 / 1 + 1 / 5) / 2,
        "rmse": 1.0,
        "rmse_log": math.sqrt((math.log(2) ** 2 + math.log(1.2) ** 2) / 2),
        "delta_1": 0.5,
        "delta_2": 0.5,
        "delta_3": 0.5,
    }
    assert {k: round(float(v), 6) for k, v in errors.items()} == {k: round(v, 6) for k, v in expected.items()}


def test_median_scaling_undoes_a_factor():
    truth = torch.rand(2, 5, 5) + 1
    scaled = median_scaled(truth * torch.tensor([0.1, 7.0])[:, None, None], truth)
    torch.testing.assert_close(scaled, truth)


def test_photometric_error_of_equal_and_of_flat_pictures():
    picture = torch.rand(1, 3, 6, 6)
    assert float(photometric_error(picture, picture).abs().max()) < 1e-6
    black, grey = torch.zeros(1, 3, 6, 6), torch.full((1, 3, 6, 6), 0.5)
    c1 = 0.01**2
    expected = 0.85 * (1 - c1 / (0.25 + c1)) / 2 + 0.15 * 0.5
    torch.testing.assert_close(photometric_error(black, grey), torch.full((1, 6, 6), expected))


def test_smoothness_forgives_jumps_where_the_picture_jumps():
    disparity = torch.ones(1, 4, 4)
    disparity[..., 2:] = 3
    flat, edge = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    edge[..., 2:] = 1
    jump = (2 / 2) / 3  # relative to the mean of 2, one of three columns
    assert math.isclose(float(edge_aware_smoothness(disparity, flat)), jump, rel_tol=1e-6)
    assert math.isclose(float(edge_aware_smoothness(disparity, edge)), jump * math.exp(-1), rel_tol=1e-6)
    assert float(edge_aware_smoothness(5 * disparity, flat)) == float(edge_aware_smoothness(disparity, flat))


def test_a_step_aside_moves_pixels_by_focal_times_step_over_depth():
    K = intrinsics(8.0, 8.0, 8.0, 8.0)[None]
    source = torch.arange(16.0).expand(1, 1, 16, 16)  # its value is its column
    T = torch.eye(4)[None].clone()
    T[0, 0, 3] = 0.5
    made = reproject(source, torch.full((1, 16, 16), 2.0), T, K)
    torch.testing.assert_close(made[..., 2:13], source[..., 2:13] + 8 * 0.5 / 2)
    torch.testing.assert_close(reproject(source, torch.full((1, 16, 16), 2.0), torch.eye(4)[None], K), source)
