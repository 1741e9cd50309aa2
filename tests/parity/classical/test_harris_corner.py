"""Harris corners held against scikit-image's and OpenCV's, and what they keep and do not."""

import cv2
import numpy as np
import pytest
import torch
from skimage.feature import corner_harris, corner_shi_tomasi

from oculi.classical.harris_corner import HarrisCorner, about_centre, corner_response, experiment, sobel
from oculi.classical.sift import photographs, warp
from oculi.geometry.homography import apply_homography
from oculi.system import predict
from oculi.types import images_only


def square(size: int = 64) -> torch.Tensor:
    image = torch.zeros(1, 1, size, size)
    image[..., 20:44, 16:48] = 1
    return image


def corners(image: torch.Tensor, **arguments) -> torch.Tensor:
    return predict(HarrisCorner(image.shape[-1], **arguments), images_only(image))[0].points


@pytest.mark.parametrize(("kind", "theirs"), [("harris", corner_harris), ("shi_tomasi", corner_shi_tomasi)])
def test_response_is_scikit_images(kind, theirs):
    image = photographs(96, 1)[0]
    options = {"k": 0.05} if kind == "harris" else {}
    expected = theirs(image[0].double().numpy(), sigma=1.5, **options)
    mine = corner_response(image[None].double(), 1.5, 0.05, kind)[0]
    expected = torch.from_numpy(expected)
    scale = (mine[12:-12, 12:-12] * expected[12:-12, 12:-12]).sum() / expected[12:-12, 12:-12].square().sum()
    # its gradients are in other units; edges are treated differently
    torch.testing.assert_close(
        mine[12:-12, 12:-12], scale * expected[12:-12, 12:-12], rtol=1e-4, atol=1e-4 * float(mine.abs().max())
    )


def test_sobel_is_opencvs():
    image = photographs(64, 1)[0]
    dx, dy = sobel(image[None])
    for mine, order in ((dx, (1, 0)), (dy, (0, 1))):
        theirs = cv2.Sobel(image[0].numpy(), cv2.CV_32F, *order, ksize=3, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
        np.testing.assert_allclose(mine[0, 0].numpy(), theirs, atol=1e-6)


def test_golden_response_of_a_known_matrix():
    """On a plane wave in x and one in y the window's mean matrix is diag(a, b): R = a b - k (a + b)^2."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    image = (0.1 * x + 0.2 * y)[None, None].double()
    R = corner_response(image, 2.0, 0.04)[0, 32, 32]
    a, b, c = 0.1**2, 0.1 * 0.2, 0.2**2
    assert float(R) == pytest.approx(a * c - b * b - 0.04 * (a + c) ** 2, rel=1e-5)
    assert float(corner_response(image, 2.0, kind="shi_tomasi")[0, 32, 32]) == pytest.approx(0, abs=1e-8)


def test_a_square_has_four_corners():
    found = corners(square())
    expected = torch.tensor([[16.0, 20], [48, 20], [48, 44], [16, 44]])
    assert len(found) == 4
    assert float(torch.cdist(expected, found).amin(1).max()) < 1.5


def test_strongest_corners_are_good_features_to_track():
    image = photographs(128, 1)[0]
    mine = corners(image[None], kind="shi_tomasi", quality=0.05, distance=3, max_keypoints=60)
    grey = (image[0] * 255).round().byte().numpy()
    theirs = cv2.goodFeaturesToTrack(grey, 60, 0.05, 4, blockSize=5)
    theirs = torch.from_numpy(np.asarray(theirs).reshape(-1, 2)) + 0.5
    assert float((torch.cdist(theirs, mine).amin(1) < 2.5).double().mean()) > 0.8


def test_corners_turn_with_the_picture():
    image = photographs(128, 1)[0]
    H = about_centre(128, 90, 1)
    a, b = corners(image[None]), corners(warp(image, H)[None])
    expected = apply_homography(H, a.double())
    near = torch.cdist(expected, b.double()).amin(1)
    assert float((near < 0.1).double().mean()) > 0.95


def test_one_colour_an_edge_and_a_tiny_picture_have_no_corners():
    assert len(corners(torch.full((1, 1, 32, 32), 0.5))) == 0
    edge = torch.zeros(1, 1, 32, 32)
    edge[..., 16:] = 1
    assert len(corners(edge)) == 0
    assert len(corners(torch.zeros(1, 1, 2, 3))) == 0


def test_response_has_gradients():
    image = photographs(32, 1)[0][None].clone().requires_grad_()
    corner_response(image).sum().backward()
    assert bool(torch.isfinite(image.grad).all())
    assert float(image.grad.abs().max()) > 0


@pytest.mark.parametrize("wrong", [{"sigma": 0.0}, {"k": 0.3}, {"quality": 0.0}, {"distance": 0}, {"kind": "susan"}])
@pytest.mark.unchecked
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HarrisCorner(**wrong)


def test_colour_is_refused():
    with pytest.raises(ValueError, match="1 channel"):
        HarrisCorner(32).predict(images_only(torch.rand(1, 3, 32, 32)))


def test_experiment_at_a_small_size():
    figures = experiment(size=128, scenes=1)
    assert figures["rotation_repeatability"] > figures["scale_repeatability"]
