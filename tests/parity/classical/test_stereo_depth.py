"""Stereo depth: a real pair beside OpenCV's StereoSGBM, known shifts, post-filters by scipy, degenerate pairs."""

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from oculi.classical.stereo_depth import (
    StereoDepth,
    background_filled,
    bad_share,
    median_of_nine,
    motorcycle,
    region_sizes,
    world_pairs,
)
from oculi.geometry.stereo import seen_by_both
from oculi.system import predict
from oculi.types import Batch


def shifted(shift: int, height: int = 40, width: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """A random pair of one disparity: right(x - shift) = left(x)."""
    wide = torch.rand(1, 1, height, width + shift, generator=torch.Generator().manual_seed(shift))
    return wide[..., :width], wide[..., shift:]


def test_a_real_pair_is_no_worse_than_opencvs():
    """A third of Middlebury's motorcycle; unmatched pixels counted as wrong, and filled in the same way, on both sides."""
    left, right, truth = (v[..., 160:330, :] for v in motorcycle())
    system = StereoDepth(disparities=64).eval()
    found, sure = system(left, right)
    one, two = ((255 * p[0, 0]).round().to(torch.uint8).numpy().copy() for p in (left, right))
    matcher = cv2.StereoSGBM_create(
        minDisparity=0, numDisparities=64, blockSize=3, P1=72, P2=288, disp12MaxDiff=1, uniquenessRatio=10,
        speckleWindowSize=100, speckleRange=2, preFilterCap=63, mode=cv2.STEREO_SGBM_MODE_HH,
    )  # fmt: skip
    theirs = torch.from_numpy(matcher.compute(one, two).astype(np.float32) / 16)[None]
    matched = theirs >= 0
    counted = torch.isfinite(truth) & (torch.arange(truth.shape[-1]) >= 64)  # OpenCV does not search the first 64
    filled = median_of_nine(background_filled(theirs, matched))
    assert bad_share(found, truth, counted, 2.0) <= bad_share(filled, truth, counted, 2.0)
    holes = [torch.where(m, d, torch.inf) for d, m in ((found, sure), (theirs, matched))]
    assert bad_share(holes[0], truth, counted, 2.0) <= bad_share(holes[1], truth, counted, 2.0)
    assert bad_share(found, truth, counted, 2.0) < 0.1


@pytest.mark.parametrize("method", ["semi_global", "block"])
def test_one_shift_is_found(method):
    left, right = shifted(5)
    disparity, sure = StereoDepth(disparities=16, method=method, window=5).eval()(left, right)
    assert float((disparity[0, 4:-4, 10:-4] - 5).abs().max()) < 0.5
    assert bool(sure[0, 4:-4, 10:-4].all())


def test_depth_of_a_world_pair():
    batch = world_pairs(2, 64, 3)
    answers = predict(StereoDepth(64, disparities=16, speckle=10), batch)
    depth = torch.stack([a.depth for a in answers])
    error = (depth - batch.depth).abs() / batch.depth
    assert float(error[seen_by_both(batch.disparity)].median()) < 0.2
    assert bool(torch.isfinite(depth).all())


def test_alone_as_in_a_batch():
    pairs = [shifted(3), shifted(7)]
    system = StereoDepth(disparities=16).eval()
    left, right = (torch.cat([p[k] for p in pairs]) for k in (0, 1))
    for together, alone in zip(system(left, right), zip(*(system(*p) for p in pairs), strict=True), strict=True):
        assert torch.equal(together, torch.cat(alone))


def test_region_sizes_are_scipys():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (3, 20, 30), generator=generator)
    sizes = region_sizes(2.0 * labels, labels > 0, tolerance=1.0)
    for found, picture in zip(sizes, labels, strict=True):
        expected = np.zeros(picture.shape, int)
        for value in (1, 2):
            regions, _ = ndimage.label(picture.numpy() == value)
            expected += np.bincount(regions.ravel())[regions] * (regions > 0)
        np.testing.assert_array_equal(found.numpy(), expected)


def test_median_is_scipys():
    image = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(0))
    for found, picture in zip(median_of_nine(image), image, strict=True):
        np.testing.assert_array_equal(found.numpy(), ndimage.median_filter(picture.numpy(), 3, mode="nearest"))


def test_holes_take_the_background():
    values = torch.tensor([[[9.0, 0.0, 0.0, 4.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]]])
    filled = background_filled(values, values > 0)
    assert filled.tolist() == [[[9.0, 4.0, 4.0, 4.0, 4.0], [0.0, 0.0, 0.0, 0.0, 0.0]]]


def test_one_colour_and_identical_pictures_have_no_depth():
    flat = torch.full((1, 1, 24, 32), 0.4)
    same = torch.rand(1, 1, 24, 32, generator=torch.Generator().manual_seed(0))
    for picture in (flat, same):
        answer = predict(StereoDepth(disparities=8, focal=100.0), Batch(image=picture, right_image=picture))[0]
        assert float(answer.depth.abs().max()) == 0
    assert not bool(StereoDepth(disparities=8)(flat, flat)[1].any())


def test_a_picture_narrower_than_the_search():
    left, right = shifted(2, 20, 12)
    disparity, _ = StereoDepth(disparities=32, speckle=0).eval()(left, right)
    assert bool(torch.isfinite(disparity).all())


@pytest.mark.unchecked
def test_bad_input():
    system = StereoDepth(32, disparities=8, focal=30.0)
    image = torch.rand(1, 1, 32, 32)
    with pytest.raises(ValueError, match="right_image"):
        system.predict(Batch(image=image))
    with pytest.raises(ValueError, match="equal batch"):
        system.predict(Batch(image=image, right_image=image[..., :16]))
    with pytest.raises(ValueError, match="right_image: expected numbers"):
        system.predict(Batch(image=image, right_image=image * torch.nan))
    with pytest.raises(ValueError, match="focal"):
        StereoDepth(32).predict(Batch(image=image, right_image=image))
    for name, value in (("method", "best"), ("disparities", 1), ("baseline", 0.0), ("difference", -1.0)):
        with pytest.raises(ValueError, match=name):
            StereoDepth(**{name: value})
