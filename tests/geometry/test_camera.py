"""Pinhole cameras: round trips, the inverse pose, look_at, and OpenCV's projection."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oculi.geometry.camera import Camera, intrinsics, look_at, pixel_centers, world_to_camera_from_pose

UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


def camera_at(center, target=(0.0, 0.0, 0.0)) -> Camera:
    K = intrinsics(80.0, 90.0, 31.0, 23.0, skew=2.0).double()
    pose = look_at(torch.tensor(center, dtype=torch.float64), torch.tensor(target, dtype=torch.float64), UP)
    return Camera(K, pose, 48, 64)


coordinate = st.floats(1, 5)


@settings(max_examples=20, deadline=None)
@given(coordinate, coordinate, st.floats(0.5, 5))
def test_rays_and_projection_are_inverse(x, y, z):
    camera = camera_at((x, y, z + 6))
    origins, directions = camera.rays()
    depth = torch.linspace(0.5, 9.0, len(origins), dtype=torch.float64)
    pixels, seen_depth = camera.project(origins + depth[:, None] * directions)
    torch.testing.assert_close(pixels, pixel_centers(48, 64).double(), atol=1e-8, rtol=0)
    torch.testing.assert_close(seen_depth, depth, atol=1e-9, rtol=0)


@settings(max_examples=20, deadline=None)
@given(coordinate, coordinate, st.floats(0.5, 5))
def test_look_at_is_a_rotation_that_sends_the_centre_to_zero(x, y, z):
    center = torch.tensor([x, y, z + 6], dtype=torch.float64)
    target = torch.tensor([0.5, -0.3, 0.1], dtype=torch.float64)
    if torch.linalg.norm((target - center)[:2]) < 1e-3:
        return
    M = look_at(center, target, UP)
    R, t = M[:3, :3], M[:3, 3]
    torch.testing.assert_close(R @ R.T, torch.eye(3, dtype=torch.float64), atol=1e-12, rtol=0)
    assert float(torch.linalg.det(R)) == pytest.approx(1.0)
    torch.testing.assert_close(R @ center + t, torch.zeros(3, dtype=torch.float64), atol=1e-10, rtol=0)
    seen = R @ target + t
    torch.testing.assert_close(seen[:2], torch.zeros(2, dtype=torch.float64), atol=1e-10, rtol=0)
    assert seen[2] > 0
    assert (R @ UP)[1] < 0  # up in the world is up in the picture: -y


def test_look_at_refuses_a_direction_parallel_to_up():
    with pytest.raises(ValueError, match="parallel to up"):
        look_at(torch.tensor([0.0, 0, 5]), torch.zeros(3), torch.tensor([0.0, 0, 1]))
    with pytest.raises(ValueError, match="zero"):
        look_at(torch.zeros(3), torch.zeros(3), torch.tensor([0.0, 0, 1]))


def test_extrinsics_are_the_inverse_of_the_pose():
    rotation = torch.linalg.qr(torch.randn(5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    rotation = rotation * torch.linalg.det(rotation)[:, None, None]
    center = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pose = torch.eye(4, dtype=torch.float64).repeat(5, 1, 1)
    pose[:, :3, :3], pose[:, :3, 3] = rotation, center
    M = world_to_camera_from_pose(rotation, center)
    np.testing.assert_allclose(M.numpy(), np.linalg.inv(pose.numpy()), atol=1e-12)
    camera = Camera(torch.eye(3, dtype=torch.float64).expand(5, 3, 3), M, 4, 4)
    torch.testing.assert_close(camera.center, center)


def test_intrinsics_golden_and_against_opencv():
    assert intrinsics(2.0, 3.0, 4.0, 5.0, 6.0).tolist() == [[2, 6, 4], [0, 3, 5], [0, 0, 1]]
    # x = f X/Z + p_x
    still = Camera(intrinsics(100.0, 100.0, 50.0, 40.0), torch.eye(4), 80, 100)
    pixels, depth = still.project(torch.tensor([[1.0, -0.5, 4.0]]))
    assert pixels.tolist() == [[75.0, 27.5]]
    assert depth.tolist() == [4.0]
    camera = camera_at((3.0, -4.0, 2.0))
    camera.K[0, 1] = 0.0  # OpenCV has no skew
    points = torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    vector, _ = cv2.Rodrigues(camera.R.numpy())
    expected, _ = cv2.projectPoints(points.numpy(), vector, camera.t.numpy(), camera.K.numpy(), None)
    np.testing.assert_allclose(camera.project(points)[0].numpy(), expected[:, 0], atol=1e-8)


def test_batches_of_cameras_agree_with_single_ones():
    cameras = [camera_at((3.0, i, 2.0)) for i in range(3)]
    batch = Camera.stack(cameras)
    assert len(batch) == 3
    points = torch.rand(3, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for i, camera in enumerate(cameras):
        torch.testing.assert_close(batch.project(points)[0][i], camera.project(points[i])[0])
        torch.testing.assert_close(batch.rays()[1][i], camera.rays()[1])
        torch.testing.assert_close(batch[i].world_to_camera, camera.world_to_camera)


def test_stack_refuses_two_picture_sizes():
    small = camera_at((3.0, 1.0, 2.0))
    with pytest.raises(ValueError, match="one picture size"):
        Camera.stack([small, Camera(small.K, small.world_to_camera, 10, 10)])
    with pytest.raises(TypeError, match="no length"):
        len(small)
