"""The protocols for depth and keypoints: perfect answers score perfectly, blind ones as their baseline, bad data is named."""

import math
from dataclasses import replace

import pytest
import torch

from oculi.classical.monocular_depth_supervised import MonocularDepthSupervised
from oculi.classical.monocular_depth_unsupervised import MonocularDepthUnsupervised
from oculi.classical.superpoint import SuperPoint
from oculi.data.sources import open_data
from oculi.geometry.rotations import rotation_from_vector
from oculi.learn.evaluation import evaluate
from oculi.learn.protocols.depth import angle_between, mean_depth
from oculi.learn.protocols.keypoints import average_precision, ranked
from oculi.metrics.depth import depth_errors
from oculi.predictions import Depth, Keypoints
from oculi.types import Batch, Sample, images_only


@pytest.fixture(scope="module")
def walks():
    return open_data("world_walk", train=4, validation=1, test=2, size=16)


def test_true_depth_in_other_units_is_perfect_after_scaling(walks, monkeypatch):
    truth = [walks.test[i].depth for i in range(2)]
    system = MonocularDepthUnsupervised(16, 4, [1, 1], "small", [4, 8], scales=2)
    monkeypatch.setattr(system, "predict", lambda batch: [Depth(0.1 * depth) for depth in truth])
    figures = evaluate(system, walks)
    assert math.isclose(figures["abs_rel"], 0.9, rel_tol=1e-4)
    assert figures["scaled_abs_rel"] < 1e-5
    assert figures["scaled_delta_1"] == 1
    assert figures["mean_abs_rel"] > 0.01


def test_true_motion_has_no_error(walks, monkeypatch):
    pose = torch.stack([walks.test[i].camera.world_to_camera for i in range(2)])
    true = (pose[:, 1:] @ torch.linalg.inv(pose[:, :-1])).flatten(0, 1)
    system = MonocularDepthUnsupervised(16, 4, [1, 1], "small", [4, 8], scales=2)
    monkeypatch.setattr(system, "motion", lambda first, second: true)
    figures = evaluate(system, walks)
    assert figures["rotation_error"] < 0.01
    assert figures["direction_error"] < 0.1
    assert 0.5 < figures["still_rotation_error"] < 10


def test_angles_are_exact_when_small():
    v = torch.tensor([[0.0, 0, 0], [1e-4, 0, 0], [0, 0.5, 0], [0, 0, 3.0]], dtype=torch.float64)
    angles = angle_between(rotation_from_vector(v), torch.eye(3, dtype=torch.float64).expand(4, 3, 3))
    torch.testing.assert_close(angles, torch.rad2deg(v.norm(dim=1)), rtol=1e-4, atol=1e-7)


def test_mean_depth_is_over_what_is_known():
    maps = [torch.tensor([[2.0, 0.0]]), torch.tensor([[4.0, math.nan]])]
    mean = mean_depth([Sample(depth=depth) for depth in maps])
    assert mean.tolist() == [[[3.0, 3.0]]]
    with pytest.raises(ValueError, match="known depth"):
        mean_depth([Sample(depth=torch.zeros(1, 2))])
    with pytest.raises(ValueError, match="no depth"):
        mean_depth([Sample()])


@pytest.mark.unchecked  # the checks of types would refuse the shapes first
@pytest.mark.parametrize(
    ("said", "truth", "message"),
    [
        (torch.ones(1, 2, 2), torch.ones(1, 2, 3), "shape"),
        (torch.zeros(1, 2, 2), torch.ones(1, 2, 2), "above 0"),
        (torch.full((1, 2, 2), math.nan), torch.ones(1, 2, 2), "above 0"),
        (torch.ones(1, 2, 2), torch.zeros(1, 2, 2), "known"),
    ],
)
def test_bad_depth_is_named(said, truth, message):
    with pytest.raises(ValueError, match=message):
        depth_errors(said, truth)


def keypoints(points, scores):
    n = len(points)
    return Keypoints(
        torch.tensor(points).reshape(n, 2), torch.ones(n), torch.zeros(n), torch.tensor(scores), torch.ones(n, 4)
    )


def test_average_precision_counts_each_corner_once():
    corners = torch.tensor([[10.0, 10], [30, 30]])
    both = ranked(keypoints([[10.0, 11.0], [30.0, 29.0]], [0.9, 0.8]), corners)
    assert average_precision([both]) == 1
    twice = ranked(keypoints([[10.0, 11.0], [11.0, 10.0], [30.0, 30.0]], [0.9, 0.8, 0.7]), corners)
    assert math.isclose(average_precision([twice]), (1 + 2 / 3) / 2)
    assert average_precision([ranked(keypoints([], []), corners)]) == 0
    assert average_precision([ranked(keypoints([[1.0, 1.0]], [0.5]), torch.zeros(0, 2))]) == 0


def test_a_detector_of_nothing_scores_nothing():
    splits = open_data("synthetic_shapes", train=1, validation=1, test=2)
    figures = evaluate(SuperPoint(64, [4, 4, 8, 8], 8, threshold=0.9), splits)
    names = ("repeatability", "matching_score", "homography_success", "points", "corner_ap")
    assert figures == dict.fromkeys(names, 0.0)


def test_adopting_gives_a_teacher_that_is_no_part_of_the_weights():
    torch.manual_seed(0)
    source, system = (SuperPoint(32, [4, 4, 8, 8], 8, warps=2) for _ in range(2))
    batch = images_only(torch.rand(2, 1, 32, 32))
    with pytest.raises(ValueError, match="keypoints"):
        system.loss(batch)
    keys = system.state_dict().keys()
    system.adopt(source)
    assert system.state_dict().keys() == keys
    losses = system.loss(batch)
    assert set(losses) == {"detector", "warped_detector", "descriptor"}
    assert all(bool(torch.isfinite(value)) for value in losses.values())
    detector = SuperPoint(32, [4, 4, 8, 8], 8, descriptor_weight=0.0)
    known = replace(batch, keypoints=[torch.tensor([[[5.0, 9.0, 2.0], [3.0, 3.0, 0.0]]])] * 2)
    assert set(detector.loss(known)) == {"detector", "warped_detector"}


def test_pictures_without_anything_in_them_have_no_points():
    system = SuperPoint(32, [4, 4, 8, 8], 8, threshold=0.5, adapted=True, warps=3).eval()
    with torch.no_grad():
        (answer,) = system.predict(images_only(torch.zeros(1, 1, 32, 32)))
    assert answer.points.shape == (0, 2)
    assert answer.descriptors.shape == (0, 8)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (SuperPoint, {"image_size": 60}, "image_size"),
        (SuperPoint, {"widths": [4, 4]}, "widths"),
        (SuperPoint, {"warps": 0}, "warps"),
        (MonocularDepthSupervised, {"network": "cnn"}, "network"),
        (MonocularDepthSupervised, {"balance": 2.0}, "balance"),
        (MonocularDepthSupervised, {"typical": -1.0}, "typical"),
        (MonocularDepthSupervised, {"network": "dpt", "image_size": 40}, "image_size"),
        (MonocularDepthUnsupervised, {"nearest": 0.0}, "nearest"),
        (MonocularDepthUnsupervised, {"scales": 0}, "scales"),
    ],
)
def test_bad_arguments_are_named(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


def test_what_is_missing_in_a_batch_is_named():
    image = torch.rand(1, 3, 16, 16)
    with pytest.raises(ValueError, match="depth"):
        MonocularDepthSupervised(image_size=16, width=4, depths=[1, 1], stem="small").loss(images_only(image))
    with pytest.raises(ValueError, match="video"):
        MonocularDepthUnsupervised(16, 4, [1, 1], "small", [4, 8], scales=2).loss(Batch(image=image))
    with pytest.raises(ValueError, match="sides"):
        SuperPoint(32, [4, 4, 8, 8], 8)(torch.rand(1, 1, 30, 32))
