"""Multi-view stereo: OpenCV's ZNCC, a wall at a known depth, what the views' vote removes, and what is refused."""

import math

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from oculi.classical.multi_view_stereo import MultiViewStereo, box_mean, experiment, warped_places, zncc
from oculi.geometry.camera import Camera, intrinsics, look_at, pixel_centers


def scene(views: int = 4, size: int = 48, depth: float = 5.0, seed: int = 0):
    """Cameras in a row before a painted wall z = `depth`, which the first one faces; its true depth in every view."""
    g = torch.Generator().manual_seed(seed)
    paint = F.interpolate(torch.rand(1, 1, 40, 40, generator=g), size=400, mode="bicubic", align_corners=False)
    eyes = torch.stack([torch.arange(views) * 0.4, torch.arange(views) % 2 * 0.2, torch.zeros(views)], 1)
    up = torch.tensor([0.0, -1, 0])
    matrix = look_at(eyes, torch.tensor([0.5, 0.0, depth]) + 0.2 * eyes, up)
    camera = Camera(intrinsics(size, size, size / 2, size / 2).expand(views, 3, 3), matrix, size, size)
    origin, direction = camera.rays()
    far = (depth - origin[..., 2]) / direction[..., 2]
    hit = origin + far[..., None] * direction
    image = F.grid_sample(paint.expand(views, 1, 400, 400), (hit[..., None, :2] / 6), align_corners=False)
    return image.view(views, 1, size, size), camera, far.view(views, size, size)


def test_zncc_is_opencvs():
    g = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 32, 40, generator=g)
    ours = zncc(first, second[None], 7)[0]
    for y, x in ((3, 3), (10, 20), (28, 36)):
        a, b = (v[y - 3 : y + 4, x - 3 : x + 4].numpy() for v in (first, second))
        theirs = cv2.matchTemplate(np.ascontiguousarray(a), np.ascontiguousarray(b), cv2.TM_CCOEFF_NORMED)
        assert float(ours[y, x]) == pytest.approx(float(theirs[0, 0]), abs=1e-4)
    torch.testing.assert_close(zncc(first, 0.3 * first[None] + 0.5, 7)[0], torch.ones(32, 40), atol=1e-3, rtol=0)
    assert not zncc(first, torch.full_like(first, 0.4)[None], 7).any()


def test_box_mean_is_opencvs():
    image = torch.rand(20, 30, generator=torch.Generator().manual_seed(1))
    theirs = cv2.blur(image.numpy(), (5, 5), borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(box_mean(image[None], 5)[0].numpy(), theirs, atol=1e-6)


def test_planes_map_pixels_as_projection_does():
    _, cameras, _ = scene()
    inverse = torch.tensor([0.1, 0.3])
    places = warped_places(cameras[0], cameras[2], inverse)
    origin, direction = cameras[0].rays()
    for k, w in enumerate(inverse.tolist()):
        expected, _ = cameras[2].project(origin + direction / w)
        torch.testing.assert_close(places[k].reshape(-1, 2), expected, atol=1e-3, rtol=1e-4)


def test_depth_of_a_wall_and_its_cloud():
    images, cameras, truth = scene()
    found = MultiViewStereo(3, 9, planes=48, sources=3).reconstruct(images, cameras)
    error = ((found.depth - truth).abs() / truth)[found.valid]
    assert float(found.valid.double().mean()) > 0.5
    assert float(error.median()) < 0.003
    assert float((found.points[:, 2] - 5).abs().median()) < 0.02
    assert len(found.points) < 0.6 * int(found.valid.sum())  # what several views see is in the cloud once
    assert found.colours.shape == (len(found.points), 1)


def test_the_vote_removes_depths_that_no_other_view_has():
    images, cameras, truth = scene()
    stereo = MultiViewStereo(3, 9, planes=8)
    wrong = truth.clone()
    wrong[0, 10:20, 10:20] *= 1.3
    sure = torch.ones_like(wrong, dtype=torch.bool)
    found = stereo._fused(images, cameras, wrong, torch.ones_like(wrong), sure)
    assert not found.valid[0, 10:20, 10:20].any()
    middle = found.valid[1:3, 16:32, 16:32].double().mean()
    assert float(middle) > 0.9
    torch.testing.assert_close(found.depth[found.valid], truth[found.valid], rtol=5e-3, atol=0)


def test_one_colour_has_no_depth():
    _, cameras, _ = scene()
    found = MultiViewStereo(3, 9, planes=8).reconstruct(torch.full((4, 3, 48, 48), 0.5), cameras)
    assert not found.valid.any()
    assert len(found.points) == 0
    assert torch.isfinite(found.depth).all()


@pytest.mark.unchecked  # shapes are part of what is wrong
def test_what_is_refused():
    images, cameras, _ = scene()
    stereo = MultiViewStereo(3, 9, planes=8)
    with pytest.raises(ValueError, match="at least two views"):
        stereo.reconstruct(images[:1], cameras)
    with pytest.raises(ValueError, match="cameras: expected 3"):
        stereo.reconstruct(images[:3], cameras)
    with pytest.raises(ValueError, match="images: expected 48 x 48"):
        stereo.reconstruct(images[..., :40], cameras)
    with pytest.raises(ValueError, match="NaN"):
        stereo.reconstruct(images * math.nan, cameras)
    one_place = Camera(cameras.K, cameras.world_to_camera[:1].expand(4, 4, 4), 48, 48)
    with pytest.raises(ValueError, match="no other view stands elsewhere"):
        stereo.reconstruct(images, one_place)
    for wrong in ({"near": 0.0}, {"far": 1.0}, {"planes": 2}, {"window": 4}, {"kept": 9}, {"tolerance": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            MultiViewStereo(**wrong)


def test_experiment_runs_small():
    figures = experiment(views=3, size=48, planes=16, scenes=1)
    assert all(math.isfinite(value) for value in figures.values())
    assert 0 <= figures["answered"] <= 1


def test_pixel_centres_are_where_the_sweep_puts_them():
    _, cameras, _ = scene()
    same = warped_places(cameras[1], cameras[1], torch.tensor([0.2]))
    torch.testing.assert_close(same.reshape(-1, 2), pixel_centers(48, 48), atol=1e-4, rtol=0)
