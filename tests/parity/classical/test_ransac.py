"""RANSAC beside OpenCV's, and what it refuses."""

import cv2
import numpy as np
import pytest
import sklearn.linear_model
import torch

from oculi.classical.ransac import RANSAC, expected_by_chance, experiment, synthetic_matches, trials_needed
from oculi.classical.ransac_models import Model, essential, fit_line, line_error
from oculi.geometry.epipolar import epipolar_distance
from oculi.geometry.essential import calibrated, relative_pose
from oculi.geometry.homography import decompose_homography, homography_dlt
from oculi.metrics.correspondence import corner_error
from two_views import spoilt, two_views


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


def test_regression_is_scikit_learns():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(200, generator=g, dtype=torch.float64) * 10
    points = torch.stack([x, 3 * x - 2 + 0.05 * torch.randn(200, generator=g, dtype=torch.float64)], 1)
    points[:60, 1] = 40 * torch.rand(60, generator=g, dtype=torch.float64) - 20
    found = RANSAC("regression", threshold=0.25).fit(points)
    theirs = sklearn.linear_model.RANSACRegressor(residual_threshold=0.25, random_state=0, max_trials=500)
    theirs.fit(points[:, :1].numpy(), points[:, 1].numpy())
    np.testing.assert_array_equal(found.inliers.numpy(), theirs.inlier_mask_)
    assert float(found.model[0]) == pytest.approx(float(theirs.estimator_.coef_[0]), abs=1e-9)
    assert float(found.model[1]) == pytest.approx(float(theirs.estimator_.intercept_), abs=1e-9)


def test_fundamental_matrix_among_outliers_is_as_near_as_opencvs():
    views = two_views(1, n=400, noise=0.5)
    points, targets, true = spoilt(views, 0.4)
    found = RANSAC("fundamental", threshold=1.5).fit(points, targets)
    theirs, _ = cv2.findFundamentalMat(points.numpy(), targets.numpy(), cv2.FM_RANSAC, 1.5, 0.99)
    ours = float(epipolar_distance(found.model, views.points[true], views.targets[true]).median())
    other = float(epipolar_distance(torch.from_numpy(theirs), views.points[true], views.targets[true]).median())
    assert ours < 1
    assert ours < 1.1 * other
    assert float((found.inliers & true).sum() / (found.inliers | true).sum()) > 0.95
    assert abs(float(torch.linalg.det(found.model))) < 1e-15


def test_essential_matrix_and_pose_among_outliers():
    views = two_views(2, n=300, noise=0.5)
    points, targets, true = spoilt(views, 0.4)
    found = RANSAC(essential(views.K), threshold=1.5).fit(points, targets)
    rays = calibrated(views.K, points), calibrated(views.K, targets)
    R, t, _ = relative_pose(found.model, *rays, found.inliers.double())
    assert float(torch.linalg.matrix_norm(R - views.R)) / 2**0.5 < np.radians(0.5)
    assert float((t * views.t).sum()) > np.cos(np.radians(2))
    E, mask = cv2.findEssentialMat(points.numpy(), targets.numpy(), views.K.numpy(), cv2.RANSAC, 0.99, 1.5)
    _, their_R, _, _ = cv2.recoverPose(E, points.numpy(), targets.numpy(), views.K.numpy(), mask=mask)
    assert float(torch.linalg.matrix_norm(R - views.R)) < np.linalg.norm(their_R - views.R.numpy()) + 2e-3
    assert float((found.inliers & true).sum() / (found.inliers | true).sum()) > 0.95


def test_a_plane_has_the_right_pose_or_two():
    """Of a plane's two poses the one that has points behind a camera is left out; where neither has, it says so."""
    answers = []
    for seed in range(12):
        views = two_views(seed, n=200, noise=0.4, plane=True)
        points, targets, true = spoilt(views, 0.3, seed)
        try:
            found = RANSAC(essential(views.K), threshold=1.5).fit(points, targets)
        except ValueError as error:
            if "two poses see all of it" not in str(error):
                raise
            H = homography_dlt(views.points[true], targets[true])
            turns = decompose_homography(H, views.K)[0]
            assert float(torch.linalg.matrix_norm(turns - views.R).min()) / 2**0.5 < np.radians(1)
            continue
        rays = calibrated(views.K, points), calibrated(views.K, targets)
        R, _, front = relative_pose(found.model, *rays, found.inliers.double())
        answers.append(float(torch.linalg.matrix_norm(R - views.R)) / 2**0.5)
        assert bool(front[true].all())
        assert float((found.inliers & true).sum() / (found.inliers | true).sum()) > 0.95
    assert 4 <= len(answers) < 12
    assert max(answers) < np.radians(0.5)


def test_a_model_of_ones_own():
    middle = Model(
        size=1,
        columns=(1,),
        solve=lambda values: (values, torch.ones(values.shape[:2], dtype=torch.bool)),
        squared_error=lambda models, values: (models - values.T).square(),
        refit=lambda model, values: values.mean(0),
        chance=lambda threshold, values: 0.01,
        settled=lambda threshold, model, values: model,
    )
    values = torch.tensor([[1.0], [1.1], [0.9], [1.0], [7.0], [-30.0]])
    found = RANSAC(middle, threshold=0.5).fit(values)
    assert float(found.model) == pytest.approx(1.0)
    assert found.inliers.tolist() == [True] * 4 + [False] * 2


def test_chance():
    assert expected_by_chance(4, 100, 4, 1e-3) == np.inf
    assert expected_by_chance(6, 100, 4, 1e-3) > 0 > expected_by_chance(50, 100, 4, 1e-3)


SQUARE = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
LINE = torch.stack([torch.arange(9.0), 2 * torch.arange(9.0)], 1)
G = torch.Generator().manual_seed(0)
NOISE = [torch.rand(100, 2, generator=G) * torch.tensor([640.0, 480.0]) for _ in range(2)]
FLAT, VIEWS = two_views(n=100, noise=0.3, plane=True), two_views(n=100, noise=0.3)
STILL, TURNED = two_views(n=100, baseline=0.0), two_views(n=100, noise=0.3, baseline=0.0)


@pytest.mark.parametrize(
    ("model", "points", "targets", "message"),
    [
        ("homography", *NOISE, "no consensus"),
        ("homography", torch.cat([LINE, NOISE[0][:20]]), torch.cat([LINE, NOISE[1][:20]]), "ambiguous.*line"),
        ("fundamental", *NOISE, "no consensus"),
        (essential(VIEWS.K), *NOISE, "no consensus"),
        ("line", NOISE[0], None, "no consensus"),
        ("fundamental", FLAT.points, FLAT.targets, "ambiguous.*homography"),
        ("fundamental", STILL.points, STILL.targets, "ambiguous.*homography|fixes a model"),
        ("fundamental", TURNED.points, TURNED.targets, "ambiguous.*homography"),
        (essential(VIEWS.K), TURNED.points, TURNED.targets, "ambiguous.*turn"),
        ("fundamental", VIEWS.points, VIEWS.points, "ambiguous.*homography|fixes a model"),
        (essential(VIEWS.K), STILL.points, STILL.targets, "ambiguous.*turn|fixes a model"),
        (essential(VIEWS.K), VIEWS.points, VIEWS.points, "ambiguous.*turn|fixes a model"),
        ("fundamental", VIEWS.points[:6], VIEWS.targets[:6], "at least 7"),
        ("essential", VIEWS.points[:4], VIEWS.targets[:4], "at least 5"),
        ("regression", torch.ones(9, 2), None, "fixes a model"),
        ("line", torch.ones(9, 2), None, "fixes a model"),
    ],
)
def test_what_fixes_no_model_is_refused(model, points, targets, message):
    with pytest.raises(ValueError, match=message):
        RANSAC(model, threshold=1.5, max_trials=256).fit(points, targets)


@pytest.mark.unchecked
def test_intrinsics_are_checked():
    with pytest.raises(ValueError, match="K: expected a 3 x 3"):
        essential(torch.zeros(3, 3))


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
    figures = experiment(matches=500, seeds=5, pairs=1)
    assert figures["success"] == 1.0
    assert figures["inlier_iou"] > 0.98


def test_an_exact_sample_gives_a_map_whose_last_entry_is_one():
    points = torch.rand(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 100
    torch.testing.assert_close(RANSAC().fit(points, points).model, torch.eye(3, dtype=torch.float64))
