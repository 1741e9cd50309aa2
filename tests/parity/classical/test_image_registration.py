"""Registration: known maps found, as exactly as OpenCV finds them; what cannot be registered is an error."""

import cv2
import numpy as np
import pytest
import torch

from oculi.classical.image_registration import (
    ImageRegistration,
    correlation,
    experiment,
    grey_picture,
    is_sane,
)
from oculi.classical.sift import photographs, warp, warps
from oculi.geometry.homography import warp_perspective
from oculi.metrics.correspondence import corner_error

SIZE = 160


@pytest.mark.parametrize("name", ["turn 30", "enlarge", "view below"])
def test_a_known_map_is_found_no_worse_than_by_opencv(name):
    photo, H = photographs(SIZE, 1)[0], warps(SIZE)[name]
    moved = warp(photo, H)
    found = ImageRegistration().register(photo, moved)
    mine = corner_error(found.H, H, SIZE, SIZE)
    sift = cv2.SIFT_create()
    (a, one), (b, two) = (sift.detectAndCompute((p[0] * 255).round().byte().numpy(), None) for p in (photo, moved))
    pairs = [m for m, n in cv2.BFMatcher().knnMatch(one, two, k=2) if m.distance < 0.8 * n.distance]
    places = [np.array([k[i].pt for k, i in zip(k2, ids)]) + 0.25 for k2, ids in (
        ([a] * len(pairs), [m.queryIdx for m in pairs]), ([b] * len(pairs), [m.trainIdx for m in pairs]))]  # fmt: skip
    theirs = corner_error(torch.from_numpy(cv2.findHomography(*places, cv2.RANSAC, 2.0)[0]), H, SIZE, SIZE)
    assert mine < max(0.5, 1.2 * theirs)
    assert found.after > 0.95
    assert found.after > found.before


def test_warp_is_opencvs():
    photo = photographs(64, 1)[0]
    H = warps(64)["view left"]
    mine, inside = warp_perspective(photo, H, 50, 70, mode="bilinear")
    shift = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])  # its pixel centres lie at whole numbers
    theirs = cv2.warpPerspective(
        photo[0].numpy(), shift @ H.numpy() @ np.linalg.inv(shift), (70, 50), borderMode=cv2.BORDER_REPLICATE
    )
    inner = torch.from_numpy(cv2.erode(inside.byte().numpy(), np.ones((5, 5), np.uint8))).bool()
    assert float((mine[0] - torch.from_numpy(theirs))[inner].abs().max()) < 0.04  # it rounds to 1/32 pixel


def test_colour_and_another_size():
    photo = photographs(SIZE, 1)[0]
    colour = torch.cat([photo, photo.square(), 1 - 0.5 * photo])
    H = torch.diag(torch.tensor([0.8, 0.8, 1.0], dtype=torch.float64))
    reference, _ = warp_perspective(colour, H, 128, 120)
    found = ImageRegistration().register(colour, reference.clamp(0, 1))
    assert found.aligned.shape == (3, 128, 120)
    assert corner_error(found.H, H, SIZE, SIZE) < 0.7


def test_a_picture_and_itself():
    photo = photographs(SIZE, 1)[0]
    found = ImageRegistration().register(photo, photo)
    torch.testing.assert_close(found.H, torch.eye(3, dtype=torch.float64), atol=1e-4, rtol=0)
    assert found.after == pytest.approx(1, abs=1e-4)


def test_nothing_in_common_is_an_error():
    one, other = photographs(SIZE, 3)[0], photographs(SIZE, 3)[2]
    with pytest.raises(ValueError, match="no common content"):
        ImageRegistration().register(one, other)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.full((1, 64, 64), 0.5), "features"),
        (torch.full((1, 64, 64), torch.nan), "finite"),
        (torch.rand(1, 8, 64), "at least 16"),
        (torch.rand(2, 64, 64), "1 or 3"),
        (torch.rand(64, 64), "1 or 3"),
    ],
)
def test_bad_pictures(image, words):
    with pytest.raises(ValueError, match=words):
        ImageRegistration().register(image, photographs(96, 1)[0])


@pytest.mark.parametrize("wrong", [{"ratio": 0.0}, {"threshold": 0.0}, {"inliers": 4}])
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ImageRegistration(**wrong)


def test_maps_that_fold_or_vanish_are_not_sane():
    eye = torch.eye(3, dtype=torch.float64)
    assert is_sane(eye, 10, 20)
    assert is_sane(-eye, 10, 20)
    assert not is_sane(torch.diag(torch.tensor([-1.0, 1, 1], dtype=torch.float64)), 10, 20)
    assert not is_sane(torch.diag(torch.tensor([0.1, 0.1, 1], dtype=torch.float64)), 10, 20)
    horizon = eye.clone()
    horizon[2, 0] = -0.1
    assert not is_sane(horizon, 10, 20)


def test_warp_lets_gradients_through():
    photo = photographs(32, 1)[0]
    H = torch.eye(3, dtype=torch.float64, requires_grad=True)
    warp_perspective(photo, H, 32, 32)[0].square().sum().backward()
    assert bool(torch.isfinite(H.grad).all())
    assert float(H.grad.abs().max()) > 0


def test_correlation():
    a = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    every = torch.ones(8, 8, dtype=torch.bool)
    assert correlation(a, 0.5 * a + 0.2, every) == pytest.approx(1)
    assert correlation(a, -a, every) == pytest.approx(-1)
    assert correlation(a, torch.ones_like(a), every) == 0
    assert grey_picture(torch.rand(3, 24, 24)).shape == (1, 24, 24)


def test_experiment_at_a_small_size():
    figures = experiment(size=128, photos=1)
    assert figures["median_corner_error"] < 1
    assert figures["success"] > 0.8
