"""Five points: every solution OpenCV and pycolmap have; poses of E; refinement; degenerate input."""

import cv2
import numpy as np
import pytest
import torch

from oculi.geometry.epipolar import fundamental_matrix, sampson_distance, squared_sampson
from oculi.geometry.essential import (
    decompose_essential,
    essential_of_fundamental,
    essential_of_pose,
    nearest_essential,
    ray_depths,
    refine_essential,
    relative_pose,
    solve_five_points,
)
from two_views import two_views


def apart(E, G):
    E, G = (torch.as_tensor(m) / torch.as_tensor(m).norm() for m in (E, G))
    return float(torch.minimum((E - G).abs().max(), (E + G).abs().max()))


def test_five_points_hold_the_truth_and_opencvs_solutions():
    for seed in range(10):
        views = two_views(seed, n=5)
        one, two = views.rays
        E, valid = solve_five_points(one, two)
        assert min(apart(e, essential_of_pose(views.R, views.t)) for e in E[valid]) < 1e-7
        assert float(sampson_distance(E[valid], one, two).max()) < 1e-9
        singular = torch.linalg.svdvals(E[valid])
        torch.testing.assert_close(singular, torch.tensor([1.0, 1, 0]).double().expand_as(singular), atol=1e-6, rtol=0)
        theirs, _ = cv2.findEssentialMat(one.numpy(), two.numpy(), np.eye(3), cv2.RANSAC, 0.999, 1e-9)
        assert theirs is None or min(apart(e, theirs[:3]) for e in E[valid]) < 1e-4


def test_five_points_of_a_plane_hold_the_truth_too():
    views = two_views(3, n=5, plane=True)
    E, valid = solve_five_points(*views.rays)
    assert min(apart(e, essential_of_pose(views.R, views.t)) for e in E[valid]) < 1e-6


def test_repeated_points_have_no_solution():
    one, two = two_views(n=5).rays
    one[4], two[4] = one[3], two[3]
    assert not solve_five_points(one, two)[1].any()


def test_a_batch_equals_its_members():
    views = [two_views(seed, n=5).rays for seed in range(4)]
    together, valid = solve_five_points(torch.stack([v[0] for v in views]), torch.stack([v[1] for v in views]))
    for i, (one, two) in enumerate(views):
        alone, good = solve_five_points(one, two)
        assert int(good.sum()) == int(valid[i].sum())
        assert max(min(apart(e, g) for g in alone[good]) for e in together[i][valid[i]]) < 1e-6


def test_the_four_poses_and_the_right_one_are_opencvs():
    for seed in range(5):
        views = two_views(seed, noise=0.5)
        one, two = views.rays
        E = essential_of_pose(views.R, views.t)
        R, t = decompose_essential(E)
        for r, shift in zip(R, t):
            assert apart(essential_of_pose(r, shift), E) < 1e-12
            assert float(torch.linalg.det(r)) == pytest.approx(1)
        found_R, found_t, front = relative_pose(-E, one, two)
        _, their_R, their_t, _ = cv2.recoverPose(E.numpy(), one.numpy(), two.numpy(), np.eye(3))
        np.testing.assert_allclose(found_R.numpy(), their_R, atol=1e-9)
        np.testing.assert_allclose(found_t.numpy(), their_t[:, 0], atol=1e-9)
        torch.testing.assert_close(found_t, views.t, atol=1e-9, rtol=0)
        assert front.all()


def test_depths_along_rays():
    views = two_views(1)
    one, two = ray_depths(views.R, views.t, *views.rays)
    torch.testing.assert_close(one, views.world[:, 2])
    torch.testing.assert_close(two, (views.world @ views.R.T + views.t)[:, 2])


def test_refinement_finds_the_least_sum():
    views = two_views(2, noise=0.5)
    one, two = views.rays
    truth = essential_of_pose(views.R, views.t)
    start = nearest_essential(truth + 0.02 * torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    refined = refine_essential(start, one, two, steps=10)
    singular = torch.linalg.svdvals(refined)
    assert float(singular[0] - singular[1]) < 1e-9
    assert float(squared_sampson(refined, one, two).sum()) < float(squared_sampson(truth, one, two).sum())
    assert apart(refined, truth) < 0.02


def test_from_the_fundamental_matrix():
    views = two_views(4)
    E = essential_of_fundamental(fundamental_matrix(views.points, views.targets), views.K, views.K)
    assert apart(E, essential_of_pose(views.R, views.t)) < 1e-8


def test_half_in_front_half_behind_is_no_pose():
    views = two_views(0, n=40)
    behind = views.world * torch.tensor([1.0, 1, -1])
    moved = behind @ views.R.T + views.t
    one = torch.cat([views.rays[0], behind[:, :2] / behind[:, 2:]])
    two = torch.cat([views.rays[1], moved[:, :2] / moved[:, 2:]])
    E = essential_of_pose(views.R, views.t)
    with pytest.raises(ValueError, match="front"):
        relative_pose(E, one, two)
    with pytest.raises(ValueError, match="finite"):
        relative_pose(E, one, two * float("nan"))


@pytest.mark.unchecked
def test_bad_input():
    views = two_views(0, n=10)
    with pytest.raises(ValueError, match="equal shapes"):
        relative_pose(torch.eye(3), views.points, views.targets[:3])
