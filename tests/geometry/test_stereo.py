"""Rectified pairs: the worked number, OpenCV's reprojection, exact World disparity to depth, occlusion by hand."""

import cv2
import numpy as np
import pytest
import torch

from oculi.data.world.dataset import BASELINE, World
from oculi.geometry.camera import Camera, intrinsics
from oculi.geometry.stereo import depth_from_disparity, disparity_from_depth, point_cloud, seen_by_both


def test_two_metres():
    depth, valid = depth_from_disparity(torch.tensor([[25.0]]), 500.0, 0.1)
    assert depth.tolist() == [[2.0]]
    assert bool(valid.all())


def test_what_has_no_depth_is_zero_and_invalid():
    depth, valid = depth_from_disparity(torch.tensor([[0.0, -3.0, torch.nan, torch.inf, 10.0]]), 100.0, 0.5)
    assert depth.tolist() == [[0.0, 0.0, 0.0, 0.0, 5.0]]
    assert valid.tolist() == [[False, False, False, False, True]]


def test_exact_world_disparity_gives_exact_depth():
    samples = World(2, "stereo", 32, fields=("depth", "camera")).make(range(2))
    disparity, depth = (torch.stack([getattr(s, n) for s in samples]) for n in ("disparity", "depth"))
    focal = torch.stack([s.camera.K[0, 0] for s in samples])
    found, valid = depth_from_disparity(disparity, focal, BASELINE)
    assert bool(valid.all())
    torch.testing.assert_close(found, depth, rtol=1e-4, atol=0)
    torch.testing.assert_close(disparity_from_depth(found, focal, BASELINE), disparity, rtol=1e-4, atol=0)


def test_points_are_opencvs():
    """OpenCV's Q counts pixels from the centre of the first: its principal point is ours less a half."""
    generator = torch.Generator().manual_seed(0)
    disparity = 1 + 20 * torch.rand(6, 8, generator=generator)
    focal, baseline, offset = 70.0, 0.2, 1.5
    camera = Camera(intrinsics(focal, focal, 4.2, 2.9), torch.eye(4), 6, 8)
    depth, _ = depth_from_disparity(disparity, focal, baseline, offset)
    Q = np.array(
        [[1, 0, 0, -(4.2 - 0.5)], [0, 1, 0, -(2.9 - 0.5)], [0, 0, 0, focal], [0, 0, 1 / baseline, offset / baseline]]
    )
    expected = cv2.reprojectImageTo3D(disparity.numpy(), Q)
    np.testing.assert_allclose(point_cloud(depth, camera).numpy(), expected.reshape(-1, 3), rtol=1e-4, atol=1e-5)


def test_points_of_valid_pixels_with_colours():
    camera = Camera(intrinsics(10.0, 10.0, 1.5, 1.0), torch.eye(4), 2, 3)
    depth = torch.tensor([[1.0, 0.0, 2.0], [0.0, 4.0, 0.0]])
    colours = torch.arange(18.0).view(3, 2, 3)
    cloud = point_cloud(depth, camera, colours=colours)
    assert cloud.shape == (3, 6)
    assert cloud[:, 2].tolist() == [1.0, 2.0, 4.0]
    assert cloud[1, 3:].tolist() == [2.0, 8.0, 14.0]


def test_hidden_pixels():
    """A near block of disparity 3 at columns 4 and 5 lands on 1 and 2: what lies there at disparity 0 is hidden."""
    disparity = torch.tensor([[0.0, 0, 0, 0, 3, 3, 0]])
    assert seen_by_both(disparity).tolist() == [[True, False, False, True, True, True, True]]
    assert seen_by_both(torch.tensor([[2.0, 2.0, 2.0]])).tolist() == [[False, False, True]]


@pytest.mark.unchecked
def test_bad_input():
    disparity = torch.ones(2, 3, 4)
    with pytest.raises(ValueError, match="focal"):
        depth_from_disparity(disparity, 0.0, 1.0)
    with pytest.raises(ValueError, match="focal"):
        depth_from_disparity(disparity, torch.ones(3, 2), 1.0)
    with pytest.raises(ValueError, match="baseline"):
        depth_from_disparity(disparity, 1.0, -0.1)
    with pytest.raises(ValueError, match="camera"):
        point_cloud(disparity[0], Camera(torch.eye(3), torch.eye(4), 9, 9))
