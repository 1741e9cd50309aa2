"""PnP among outliers beside OpenCV's, localisation in a map, and what is refused."""

import cv2
import pytest
import torch

from oculi.classical.ransac_pnp import FeatureMap, RANSACPnP, experiment, synthetic_view
from oculi.geometry.camera import Camera
from oculi.geometry.rotations import rotation_error
from oculi.predictions import Keypoints


def test_exact_matches_give_the_exact_pose():
    for seed in range(5):
        points, pixels, K, truth, _ = synthetic_view(50, 0.0, 0.0, seed)
        found = RANSACPnP().fit(points, pixels, K)
        assert float(rotation_error(found.model[:3, :3], truth[:3, :3])) < 1e-3
        torch.testing.assert_close(found.model, truth, atol=1e-6, rtol=0)
        assert found.inliers.all()


def test_outliers_are_outvoted_as_well_as_by_opencv():
    ours, theirs = [], []
    for seed in range(5):
        points, pixels, K, truth, true = synthetic_view(300, 0.4, 0.5, seed)
        found = RANSACPnP().fit(points, pixels, K)
        assert float((found.inliers & true).sum() / (found.inliers | true).sum()) >= 0.95
        assert torch.equal(found.inliers, found.errors <= 2.0)
        ours.append(float(rotation_error(found.model[:3, :3], truth[:3, :3])))
        good, vector, _, _ = cv2.solvePnPRansac(
            points.numpy(), pixels.numpy(), K.numpy(), None, reprojectionError=2.0, iterationsCount=1000
        )
        assert good
        theirs.append(float(rotation_error(torch.from_numpy(cv2.Rodrigues(vector)[0]), truth[:3, :3])))
    assert max(ours) < 0.1
    assert sum(ours) < 1.25 * sum(theirs)


def keypoints_at(pixels, descriptors):
    ones = torch.ones(len(pixels))
    return Keypoints(pixels.float(), ones, ones, ones, descriptors)


def test_exact_matches_to_a_map_give_the_exact_pose():
    points, pixels, K, truth, _ = synthetic_view(60, 0.0, 0.0, 0)
    descriptors = torch.nn.functional.normalize(torch.randn(90, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    known = FeatureMap(points[10:], descriptors[10:60])
    seen = keypoints_at(pixels, torch.cat([descriptors[60:70], descriptors[10:60]]))  # ten keypoints are new
    found, pairs = RANSACPnP().locate(seen, known, K)
    assert float(rotation_error(found.model[:3, :3], truth[:3, :3])) < 1e-3
    right = pairs[:, 0] == pairs[:, 1] + 10
    assert right[found.inliers].all()
    assert int(found.inliers.sum()) >= 50


def test_a_map_of_a_view_lies_where_its_depth_says():
    points, pixels, K, pose, _ = synthetic_view(50, 0.0, 0.0, 1)
    camera = Camera(K, pose, 480, 640)
    _, depth = camera.project(points)
    image = torch.full((480, 640), torch.inf, dtype=torch.float64)
    columns, rows = pixels.long().unbind(1)
    image[rows[:40], columns[:40]] = depth[:40]
    keypoints = keypoints_at(pixels, torch.zeros(50, 4))
    keypoints.points = pixels
    known = FeatureMap.of_view(keypoints, image, camera)
    torch.testing.assert_close(known.points, points[:40])


def test_degenerate_input_is_refused():
    points, pixels, K, _, _ = synthetic_view(50, 0.0, 0.0, 0)
    line = points[:1] + torch.arange(50.0)[:, None] * (points[1] - points[0])
    for bad, message in (
        ((points[:2], pixels[:2], K), "at least 3"),
        ((points * torch.nan, pixels, K), "points: expected finite"),
        ((points, pixels / 0, K), "targets: expected finite"),
        ((line, pixels, K), "one line"),
        ((points, pixels[torch.randperm(50, generator=torch.Generator().manual_seed(0))], K), "no consensus"),
        ((points, pixels, torch.zeros(3, 3)), "K: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            RANSACPnP(max_trials=256).fit(*bad)
    nothing = keypoints_at(torch.zeros(0, 2), torch.zeros(0, 4))
    with pytest.raises(ValueError, match="at least 12 that match"):
        RANSACPnP().locate(nothing, FeatureMap(points, torch.zeros(50, 4)), K)


def test_a_handful_that_agrees_does_not_locate():
    points, pixels, K, _, _ = synthetic_view(60, 0.8, 0.0, 0)  # twelve of sixty are right
    descriptors = torch.nn.functional.normalize(torch.randn(60, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    seen, known = keypoints_at(pixels, descriptors), FeatureMap(points, descriptors)
    found, _ = RANSACPnP(least=10).locate(seen, known, K)
    assert 12 <= int(found.inliers.sum()) < 15
    with pytest.raises(ValueError, match="of 60 matches agree on a pose, expected 15"):
        RANSACPnP(least=15).locate(seen, known, K)


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"ratio": 0.0}, {"least": 3}, {"confidence": 1.0}, {"batch": 0}])
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RANSACPnP(**wrong)


def test_experiment_at_a_tenth():
    figures = experiment(matches=100, seeds=3, size=192, pictures=3, scenes=1)
    assert figures["map_misled"] == 0
    assert figures["exact_rotation_error"] < 1e-3
    assert figures["inlier_iou"] > 0.95
