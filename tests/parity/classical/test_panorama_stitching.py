"""Panoramas: photographs cut into views and put together again; blends; what cannot be stitched is an error."""

import cv2
import numpy as np
import pytest
import torch

from oculi.classical.panorama_stitching import (
    PanoramaStitching,
    experiment,
    feathered,
    four_views,
    multiband,
    seam_step,
)
from oculi.classical.sift import photographs
from oculi.geometry.homography import apply_homography, warp_perspective


def views(light: float = 0.0, seed: int = 0, size: int = 224, view: int = 140):
    photo = photographs(size, 1)[0]
    made, maps = four_views(photo, view, torch.Generator().manual_seed(seed), light)
    return photo, made, maps


def against(photo, panorama, maps):
    to_canvas = panorama.homographies[panorama.middle] @ torch.linalg.inv(maps[panorama.middle])
    truth, inside = warp_perspective(photo, to_canvas, *panorama.canvas.shape[1:])
    return truth.clamp(0, 1), inside & (panorama.seen >= 2)


@pytest.mark.parametrize("blend", ["multiband", "feather"])
def test_four_views_become_the_photograph(blend):
    photo, made, maps = views()
    panorama = PanoramaStitching(blend=blend).stitch(made)
    truth, where = against(photo, panorama, maps)
    psnr = -10 * float((panorama.canvas - truth)[:, where].square().mean().log10())
    assert psnr > 28
    assert seam_step(panorama, truth, where) < 2.5  # so small a photograph is all fine texture; the recipe holds 2
    assert int(panorama.seen.max()) >= 2


def test_gains_even_out_the_light():
    photo, made, maps = views(light=0.15)
    steps = []
    for gains in (True, False):
        panorama = PanoramaStitching(blend="feather", gains=gains).stitch(made)
        truth, where = against(photo, panorama, maps)
        difference = (panorama.canvas - truth)[:, where]
        steps.append(float((difference - difference.mean()).std()))
    assert steps[0] < 0.5 * steps[1]


def test_opencv_places_a_pair_alike():
    _, made, _ = views()
    panorama = PanoramaStitching().stitch(made[:2])
    across = torch.linalg.inv(panorama.homographies[1]) @ panorama.homographies[0]
    sift = cv2.SIFT_create()
    (a, one), (b, two) = (sift.detectAndCompute((p[0] * 255).round().byte().numpy(), None) for p in made[:2])
    pairs = [m for m, n in cv2.BFMatcher().knnMatch(one, two, k=2) if m.distance < 0.8 * n.distance]
    source = np.array([a[m.queryIdx].pt for m in pairs]) + 0.25
    target = np.array([b[m.trainIdx].pt for m in pairs]) + 0.25
    H, inliers = cv2.findHomography(source, target, cv2.RANSAC, 2.0)
    shared = torch.from_numpy(source[inliers[:, 0] > 0])
    apart = apply_homography(across / across[2, 2], shared) - apply_homography(torch.from_numpy(H), shared)
    assert float(apart.norm(dim=1).median()) < 0.3


def test_blends_by_hand():
    left, right = torch.zeros(1, 8, 64), torch.ones(1, 8, 64)
    ramp = torch.linspace(1, 0, 64).expand(8, 64)
    weights = torch.stack([ramp, 1 - ramp]).clamp_min(1e-4)
    layers = torch.stack([left, right])
    torch.testing.assert_close(feathered(layers, weights)[0, 0], 1 - ramp[0], atol=1e-3, rtol=0)
    blended = multiband(layers, weights)[0, 4]
    assert bool((blended.diff() >= -1e-5).all())
    assert float(blended[0]) < 0.3
    assert float(blended[-1]) > 0.7
    nobody = torch.zeros_like(weights)
    assert float(multiband(layers, nobody).abs().max()) == 0
    same = torch.rand(1, 8, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(multiband(torch.stack([same, same]), weights), same, atol=1e-5, rtol=0)


def test_a_picture_twice_is_itself():
    photo = photographs(96, 1)[0]
    panorama = PanoramaStitching().stitch([photo, photo])
    height, width = panorama.canvas.shape[1:]
    assert abs(height - 96) <= 2
    assert abs(width - 96) <= 2


def test_pictures_that_do_not_overlap_are_named():
    _, made, _ = views()
    with pytest.raises(ValueError, match="pictures: 2 overlap none"):
        PanoramaStitching().stitch([*made[:2], photographs(140, 3)[2]])
    with pytest.raises(ValueError, match="overlap none"):
        PanoramaStitching().stitch([made[0], torch.full((1, 140, 140), 0.5)])


@pytest.mark.unchecked
def test_bad_input():
    photo = photographs(96, 1)[0]
    with pytest.raises(ValueError, match="at least two"):
        PanoramaStitching().stitch([photo])
    with pytest.raises(ValueError, match="channels"):
        PanoramaStitching().stitch([photo, photo.expand(3, -1, -1)])
    with pytest.raises(ValueError, match=r"pictures\[1\].*finite"):
        PanoramaStitching().stitch([photo, photo * torch.nan])
    with pytest.raises(ValueError, match="blend"):
        PanoramaStitching(blend="none")
    with pytest.raises(ValueError, match="bands"):
        PanoramaStitching(bands=0)


def test_experiment_at_a_small_size():
    figures = experiment(size=192, view=120, photos=1)
    assert figures["overlap_psnr"] > 26
    assert figures["seam_step"] < 2
