"""The fundamental matrix: exact from exact matches, OpenCV's and scikit-image's answers, refinement, degenerate input."""

import cv2
import numpy as np
import pytest
import skimage.transform
import torch

from oculi.geometry.epipolar import (
    epipolar_distance,
    epipolar_lines,
    fundamental_matrix,
    refine_fundamental,
    sampson_distance,
    solve_eight_points,
    solve_seven_points,
    squared_sampson,
)
from oculi.geometry.essential import essential_of_pose, fundamental_of_essential
from two_views import two_views


def same_up_to_scale(F, G):
    F, G = (torch.as_tensor(m) / torch.as_tensor(m).norm() for m in (F, G))
    return float(torch.minimum((F - G).abs().max(), (F + G).abs().max()))


@pytest.mark.parametrize("n", [8, 9, 50])
def test_exact_matches_give_the_exact_matrix(n):
    views = two_views(n=n)
    F = fundamental_matrix(views.points, views.targets)
    truth = fundamental_of_essential(essential_of_pose(views.R, views.t), views.K, views.K)
    assert same_up_to_scale(F, truth) < 1e-8
    assert float(sampson_distance(F, views.points, views.targets).max()) < 1e-6
    assert abs(float(torch.linalg.det(F))) < 1e-15


def test_noisy_matches_give_opencvs_and_scikit_images_answer():
    views = two_views(noise=0.5)
    ours = fundamental_matrix(views.points, views.targets)
    a, b = views.points.numpy(), views.targets.numpy()
    assert same_up_to_scale(ours, cv2.findFundamentalMat(a, b, cv2.FM_8POINT)[0]) < 1e-6
    theirs = skimage.transform.FundamentalMatrixTransform.from_estimate(a, b)
    assert same_up_to_scale(ours, theirs.params) < 1e-4  # it normalises by another measure of spread


def test_seven_points_have_opencvs_solutions():
    for seed in range(10):
        views = two_views(seed, n=7, noise=1.0)
        F, valid = solve_seven_points(views.points, views.targets)
        theirs, _ = cv2.findFundamentalMat(views.points.numpy(), views.targets.numpy(), cv2.FM_7POINT)
        theirs = theirs.reshape(-1, 3, 3)
        assert int(valid.sum()) == len(theirs)
        for G in theirs:
            assert min(same_up_to_scale(f, G) for f in F[valid]) < 1e-5
        assert float(sampson_distance(F[valid], views.points, views.targets).max()) < 1e-6
        assert float(torch.linalg.det(F[valid]).abs().max()) < 1e-12


def test_sampson_is_scikit_images_distance():
    views = two_views(noise=2.0)
    F = fundamental_matrix(views.points, views.targets)
    theirs = skimage.transform.FundamentalMatrixTransform(F.numpy()).residuals(
        views.points.numpy(), views.targets.numpy()
    )
    np.testing.assert_allclose(sampson_distance(F, views.points, views.targets).numpy(), np.abs(theirs), rtol=1e-9)


def test_epipolar_lines_are_opencvs():
    views = two_views(noise=1.0)
    F = fundamental_matrix(views.points, views.targets)
    theirs = cv2.computeCorrespondEpilines(views.points.numpy(), 1, F.numpy())[:, 0]
    np.testing.assert_allclose(epipolar_lines(F, views.points).numpy(), theirs, rtol=1e-5, atol=1e-5)
    assert float(epipolar_distance(F, views.points, views.targets).median()) < 2


def test_refinement_lowers_the_error_and_keeps_the_rank():
    views = two_views(noise=1.0)
    start = fundamental_matrix(views.points, views.targets)
    refined = refine_fundamental(start, views.points, views.targets)
    before, after = (squared_sampson(F, views.points, views.targets).sum() for F in (start, refined))
    assert float(after) < float(before)
    assert abs(float(torch.linalg.det(refined))) < 1e-15
    again = refine_fundamental(refined, views.points, views.targets, steps=3)
    assert float(squared_sampson(again, views.points, views.targets).sum()) == pytest.approx(float(after), rel=1e-6)


def test_weights_switch_matches_off():
    views = two_views(n=40)
    targets = views.targets.clone()
    targets[:10] += 50
    weights = (torch.arange(40) >= 10).double()
    F, well_posed = solve_eight_points(views.points, targets, weights)
    assert well_posed
    assert float(sampson_distance(F, views.points, views.targets).max()) < 1e-6
    refined = refine_fundamental(F, views.points, targets, weights)
    assert float(sampson_distance(refined, views.points, views.targets).max()) < 1e-6


def test_a_batch_equals_its_members():
    views = [two_views(seed, noise=0.5) for seed in range(3)]
    points, targets = torch.stack([v.points for v in views]), torch.stack([v.targets for v in views])
    together = refine_fundamental(fundamental_matrix(points, targets), points, targets)
    for F, v in zip(together, views):
        assert (
            same_up_to_scale(F, refine_fundamental(fundamental_matrix(v.points, v.targets), v.points, v.targets)) < 1e-9
        )


PLANE, LINE = two_views(plane=True), torch.stack([torch.arange(9.0), 2 * torch.arange(9.0)], 1)


@pytest.mark.parametrize(
    ("points", "targets", "message"),
    [
        (PLANE.points[:7], PLANE.targets[:7], "at least 8"),
        (PLANE.points, PLANE.targets[:9], "equal shapes"),
        (PLANE.points * float("nan"), PLANE.targets, "finite"),
        (PLANE.points, PLANE.targets, "one plane"),
        (PLANE.points, PLANE.points, "one plane"),
        (LINE, LINE, "one plane or line"),
        (torch.zeros(9, 2), torch.zeros(9, 2), "one plane or line"),
    ],
)
@pytest.mark.unchecked
def test_bad_input(points, targets, message):
    with pytest.raises(ValueError, match=message):
        fundamental_matrix(points, targets)
