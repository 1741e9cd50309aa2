"""COLMAP, nerfstudio and OpenGL: there and back, and read by pycolmap."""

import json

import numpy as np
import pytest
import torch

from oculi.geometry.camera import Camera, intrinsics, look_at, pose_from_world_to_camera, world_to_camera_from_pose
from oculi.geometry.camera_conventions import (
    Reconstruction,
    View,
    opengl_from_world_to_camera,
    read_colmap,
    read_nerfstudio,
    world_to_camera_from_opengl,
    write_colmap,
    write_nerfstudio,
)
from oracles import oracle

LENSES = [[0.0] * 5, [-0.2, 0.05, 0.001, -0.002, 0.0], [-0.2, 0.05, 0.001, -0.002, 0.01]]


def reconstruction() -> Reconstruction:
    g = torch.Generator().manual_seed(0)
    points = torch.rand(6, 3, generator=g, dtype=torch.float64) - 0.5
    views = []
    for k, lens in enumerate(LENSES):
        eye = torch.tensor([3.0, k - 1.0, 2.0], dtype=torch.float64)
        pose = look_at(eye, torch.zeros(3).double(), torch.tensor([0.0, 0, 1]).double())
        camera = Camera(intrinsics(300.0, 310.0, 160.5, 119.5).double(), pose, 240, 320)
        pixels, _ = camera.project(points)
        views.append(View(f"folder/picture_{k}.png", camera, torch.tensor(lens).double(), pixels, torch.arange(6) - k))
    for view in views:
        view.point_of_pixel = view.point_of_pixel.clamp_min(-1)
    colors = torch.randint(0, 256, (6, 3), generator=g).to(torch.uint8)
    return Reconstruction(views, points, colors)


def agree(a: View, b: View, observations: bool = True) -> None:
    assert (a.name, a.camera.height, a.camera.width) == (b.name, b.camera.height, b.camera.width)
    for first, second in (
        (a.camera.K, b.camera.K),
        (a.camera.world_to_camera, b.camera.world_to_camera),
        (a.distortion, b.distortion),
        *([(a.pixels, b.pixels), (a.point_of_pixel, b.point_of_pixel)] if observations else []),
    ):
        torch.testing.assert_close(first, second, atol=1e-12, rtol=0)


@pytest.mark.parametrize("binary", [True, False])
def test_colmap_there_and_back(tmp_path, binary):
    made = reconstruction()
    again = read_colmap(write_colmap(tmp_path / "sparse", made, binary))
    for a, b in zip(made.views, again.views, strict=True):
        agree(a, b)
    torch.testing.assert_close(again.points, made.points)
    assert torch.equal(again.colors, made.colors)


@pytest.mark.parametrize("binary", [True, False])
def test_pycolmap_reads_ours_and_we_read_its(tmp_path, binary):
    pycolmap = oracle("pycolmap")
    made = reconstruction()
    theirs = pycolmap.Reconstruction(str(write_colmap(tmp_path / "ours", made, binary)))
    assert len(theirs.images) == len(made.views)
    assert theirs.num_points3D() == 6
    for image in theirs.images.values():
        view = next(v for v in made.views if v.name == image.name)
        camera = theirs.cameras[image.camera_id]
        matrix = image.cam_from_world().matrix()
        np.testing.assert_allclose(matrix, view.camera.world_to_camera[:3].numpy(), atol=1e-12)
        np.testing.assert_allclose(camera.calibration_matrix(), view.camera.K.numpy(), atol=1e-12)
    (tmp_path / "theirs").mkdir()
    getattr(theirs, "write_binary" if binary else "write_text")(str(tmp_path / "theirs"))
    again = read_colmap(tmp_path / "theirs")
    for a, b in zip(made.views, sorted(again.views, key=lambda v: v.name), strict=True):
        agree(a, b, observations=False)


def test_nerfstudio_there_and_back(tmp_path):
    made = reconstruction().views
    again = read_nerfstudio(write_nerfstudio(tmp_path / "transforms.json", made))
    for a, b in zip(made, again, strict=True):
        agree(a, b, observations=False)


def test_blenders_angle_and_what_stands_at_the_top(tmp_path):
    frame = {"file_path": "a", "transform_matrix": torch.eye(4).tolist()}
    content = {"camera_angle_x": 2 * float(torch.atan(torch.tensor(0.5))), "w": 100, "h": 80, "frames": [frame]}
    (tmp_path / "t.json").write_text(json.dumps(content))
    (view,) = read_nerfstudio(tmp_path / "t.json")
    assert float(view.camera.K[0, 0]) == pytest.approx(100, abs=1e-4)
    assert view.camera.K[:2, 2].tolist() == [50, 40]
    # looks along -z with y up
    pixels, depth = view.camera.project(torch.tensor([[0.0, 1.0, -2.0]]).double())
    assert depth.tolist() == [2.0]
    assert float(pixels[0, 1]) < 40


def test_opengl_golden():
    # at the origin OpenGL's camera is ours turned by half a turn about x
    assert opengl_from_world_to_camera(torch.eye(4)).tolist() == torch.diag(torch.tensor([1.0, -1, -1, 1])).tolist()
    pose = torch.stack([v.camera.world_to_camera for v in reconstruction().views])
    torch.testing.assert_close(world_to_camera_from_opengl(opengl_from_world_to_camera(pose)), pose)
    torch.testing.assert_close(world_to_camera_from_pose(*pose_from_world_to_camera(pose)), pose)


@pytest.mark.unchecked
def test_bad_input(tmp_path):
    made = reconstruction()
    with pytest.raises(ValueError, match="rotation"):
        world_to_camera_from_opengl(2 * torch.eye(4))
    with pytest.raises(ValueError, match="rotation"):
        world_to_camera_from_opengl(torch.full((4, 4), float("nan")))
    with pytest.raises(FileNotFoundError):
        read_colmap(tmp_path)
    (tmp_path / "cameras.txt").write_text("1 OPENCV_FISHEYE 4 4 1 1 1 1 0 0 0 0\n")
    with pytest.raises(ValueError, match="OPENCV_FISHEYE: expected one of"):
        read_colmap(tmp_path)
    broken = write_colmap(tmp_path / "b", made)
    (broken / "images.bin").write_bytes((broken / "images.bin").read_bytes()[:50])
    with pytest.raises(ValueError, match="not a COLMAP model"):
        read_colmap(broken)
    made.views[0].camera.K[0, 1] = 3.0
    with pytest.raises(ValueError, match="skew"):
        write_colmap(tmp_path / "c", made)
    made.views[0].camera.K[0, 1] = 0.0
    made.views[0].name = "a picture.png"
    with pytest.raises(ValueError, match="without spaces"):
        write_colmap(tmp_path / "d", made, binary=False)
    (tmp_path / "t.json").write_text(json.dumps({"frames": [{"file_path": "a"}]}))
    with pytest.raises(ValueError, match="lacks transform_matrix"):
        read_nerfstudio(tmp_path / "t.json")
