"""RANSAC beside OpenCV's, and what it refuses."""

import cv2
import numpy as np
import pytest
import torch

from oculi.classical.ransac import RANSAC, experiment, fit_line, line_error, synthetic_matches, trials_needed
from oculi.metrics.correspondence import corner_error


def test_homography_is_as_near_as_opencvs():
    points, targets, truth, H = synthetic_matches(500, 0.5, 0.5, seed=1)
    found = RANSAC(threshold=2.0).fit(points, targets)
    theirs, mask = cv2.findHomography(points.numpy(), targets.numpy(), cv2.RANSAC, 2.0)
    ours_error = corner_error(found.model, H, 480, 640)
    assert ours_error < 1
    assert ours_error <= corner_error(torch.from_numpy(theirs), H, 480, 640) + 0.1
    assert float((found.inliers.numpy() == mask[:, 0].astype(bool)).mean()) > 0.99
    assert float((found.inliers == truth).double().mean()) > 0.99


def test_trials_formula():
    assert trials_needed(0.99, 0.5, 4) == 72
    assert trials_needed(0.99, 1.0, 4) == 1
    assert trials_needed(0.99, 0.0, 4) > 10**9
    with pytest.raises(ValueError, match="inlier_share"):
        trials_needed(0.99, 1.5, 4)


@pytest.mark.parametrize("scoring", ["msac", "consensus"])
def test_line_through_outliers(scoring):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(100, generator=g) * 10
    points = torch.stack([x, 2 * x + 1 + 0.01 * torch.randn(100, generator=g)], 1)
    points[:40] = torch.rand(40, 2, generator=g) * 20
    found = RANSAC("line", threshold=0.05, scoring=scoring).fit(points)
    a, b, c = found.model.tolist()
    assert -a / b == pytest.approx(2, abs=0.01)
    assert -c / b == pytest.approx(1, abs=0.02)
    assert int(found.inliers[40:].sum()) == 60


def test_line_is_total_least_squares():
    points = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [5.0, 1]
    )
    line, well_posed = fit_line(points)
    vx, vy, x0, y0 = cv2.fitLine(points.numpy().astype(np.float32), cv2.DIST_L2, 0, 0.01, 0.01)[:, 0]
    assert well_posed
    assert abs(float(line[0] * vx + line[1] * vy)) < 1e-3
    assert float(line_error(line, torch.tensor([[x0, y0]], dtype=torch.float64))) < 1e-3


def test_stops_early_where_all_agree_and_late_where_few_do():
    points, targets, _, _ = synthetic_matches(200, 0.0, 0.1, seed=0)
    assert RANSAC(batch=8).fit(points, targets).trials == 8
    points, targets, _, _ = synthetic_matches(200, 0.7, 0.1, seed=0)
    assert RANSAC(batch=8).fit(points, targets).trials > 300


def test_same_seed_same_bits():
    points, targets, _, _ = synthetic_matches(200, 0.5, 0.5, seed=2)
    a, b = (RANSAC(seed=3).fit(points, targets) for _ in range(2))
    assert torch.equal(a.model, b.model)
    assert torch.equal(a.inliers, b.inliers)


SQUARE = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
LINE = torch.stack([torch.arange(9.0), 2 * torch.arange(9.0)], 1)


@pytest.mark.parametrize(
    ("points", "targets", "message"),
    [
        (SQUARE[:3], SQUARE[:3], "at least 4"),
        (LINE, LINE, "one line"),
        (torch.zeros(6, 2), torch.zeros(6, 2), "coincide"),
        (SQUARE * float("nan"), SQUARE, "points: expected finite"),
        (SQUARE, SQUARE * float("inf"), "targets: expected finite"),
        (SQUARE, SQUARE[:3], "targets: expected 4 x 2"),
        (SQUARE, None, "points and targets"),
    ],
)
@pytest.mark.unchecked
def test_degenerate_input_is_refused(points, targets, message):
    with pytest.raises(ValueError, match=message):
        RANSAC(max_trials=128).fit(points, targets)


@pytest.mark.parametrize(
    "wrong", [{"model": "circle"}, {"threshold": 0}, {"confidence": 1.0}, {"batch": 0}, {"scoring": "lmeds"}]
)
@pytest.mark.unchecked
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RANSAC(**wrong)


def test_experiment_at_a_tenth():
    figures = experiment(matches=500, seeds=5)
    assert figures["success"] == 1.0
    assert figures["inlier_iou"] > 0.98
