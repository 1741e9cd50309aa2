"""Recognition by keypoints: there and not there, where OpenCV's features and matches say the same."""

import cv2
import numpy as np
import pytest
import torch

from oculi.classical.keypoint_object_recognition import KeypointObjectRecognition, experiment, pasted, similarity
from oculi.classical.sift import photographs
from oculi.geometry.homography import apply_homography

SIDE = 96


def cutting(index: int) -> torch.Tensor:
    return photographs(256, index + 1)[index][:, 80 : 80 + SIDE, 80 : 80 + SIDE]


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    H = similarity(SIDE, (120.0, 130.0), 40.0, 1.2)
    return pasted(photographs(256, 3)[2], cutting(0), H), H


def test_an_object_is_found_where_it_is_and_no_other():
    system = KeypointObjectRecognition()
    system.remember("astronaut", cutting(0))
    system.remember("camera", cutting(1))
    picture, H = scene()
    (found,) = system.recognise(picture)
    assert found.name == "astronaut"
    corners = H.new_tensor([[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]])
    assert float((found.outline - apply_homography(H, corners)).norm(dim=1).max()) < 2
    assert system.recognise(photographs(256, 3)[2]) == []


def test_opencv_counts_as_many_consistent_matches():
    picture, _ = scene()
    system = KeypointObjectRecognition()
    system.remember("it", cutting(0))
    mine = system.recognise(picture)[0].inliers
    sift = cv2.SIFT_create()
    (a, one), (b, two) = (
        sift.detectAndCompute((p[0] * 255).round().byte().numpy(), None) for p in (cutting(0), picture)
    )
    pairs = [m for m, n in cv2.BFMatcher().knnMatch(one, two, k=2) if m.distance < 0.8 * n.distance]
    places = [np.array(p) for p in ([a[m.queryIdx].pt for m in pairs], [b[m.trainIdx].pt for m in pairs])]
    theirs = int(cv2.findHomography(*places, cv2.RANSAC, 3.0)[1].sum())
    assert mine > 0.85 * theirs


def test_what_cannot_be_known_or_looked_for():
    system = KeypointObjectRecognition()
    with pytest.raises(ValueError, match="no object"):
        system.recognise(cutting(0))
    with pytest.raises(ValueError, match="features on wall"):
        system.remember("wall", torch.full((1, 64, 64), 0.4))
    system.remember("it", cutting(0))
    assert system.recognise(torch.full((1, 64, 64), 0.4)) == []
    with pytest.raises(ValueError, match="finite"):
        system.recognise(torch.full((1, 64, 64), torch.nan))


@pytest.mark.parametrize("wrong", [{"inliers": 4}, {"ratio": 0.0}, {"threshold": -1.0}])
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        KeypointObjectRecognition(**wrong)


def test_experiment_at_a_small_size():
    figures = experiment(size=224, stored=96, scenes=1)
    assert figures["false_alarms"] < 0.1
    assert figures["recall"] > 0.5
