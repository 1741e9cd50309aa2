"""Structure from motion: synthetic tracks give cameras back, pycolmap reads and confirms, and what is refused."""

import math

import pytest
import torch

from oculi.classical.structure_from_motion import Pair, StructureFromMotion, pose_errors, tracks_of
from oculi.geometry.bundle_adjustment import Observations
from oculi.geometry.camera import Camera, intrinsics, look_at
from oculi.geometry.camera_conventions import read_colmap, write_colmap
from oculi.geometry.reconstruction_export import read_ply, write_ply
from oracles import oracle

SIZE = 320


def views(count: int = 5, points: int = 120, noise: float = 0.3, turn_only: bool = False, seed: int = 0):
    """Cameras on an arc, the features they have of a cloud, and the right matches with a tenth of wrong ones."""
    g = torch.Generator().manual_seed(seed)
    turn = torch.linspace(-0.5, 0.5, count, dtype=torch.float64)
    eyes = torch.stack([6 * turn.sin(), -6 * turn.cos(), 1.5 + (5 * turn).cos()], 1)
    target = torch.zeros(count, 3, dtype=torch.float64)
    if turn_only:
        eyes, target = eyes[:1].expand(count, 3), torch.stack([turn, 0 * turn, 0 * turn], 1)
    K = intrinsics(350.0, 350.0, SIZE / 2, SIZE / 2).double()
    up = torch.tensor([0.0, 0, 1], dtype=torch.float64)
    truth = Camera(K.expand(count, 3, 3), look_at(eyes, target, up), SIZE, SIZE)
    cloud = 3 * torch.rand(points, 3, generator=g, dtype=torch.float64) - 1.5
    pixels, _ = truth.project(cloud.expand(count, -1, 3))
    pixels = pixels + noise * torch.randn(pixels.shape, generator=g, dtype=torch.float64)
    matches = {}
    for i in range(count):
        for j in range(i + 1, count):
            same = torch.arange(points)[:, None].repeat(1, 2)
            wrong = torch.rand(points, generator=g) < 0.1
            same[wrong, 1] = torch.randint(0, points, (int(wrong.sum()),), generator=g)
            matches[i, j] = same
    return truth, list(pixels), matches, K


@pytest.fixture(scope="module")
def built():
    truth, pixels, matches, K = views()
    return truth, StructureFromMotion().from_matches(pixels, matches, K, SIZE, SIZE)


def test_cameras_come_back(built):
    truth, found = built
    assert found.registered.tolist() == [0, 1, 2, 3, 4]
    degrees, off = pose_errors(found, truth)
    assert float(degrees.max()) < 0.3
    assert float(off.max()) < 0.01
    assert float(found.errors.mean()) < 0.6
    assert len(found.points) > 60
    low, high = found.depth_range()
    assert 0 < low < high


def test_pycolmap_reads_the_text_and_finds_the_same_errors(built, tmp_path):
    _, found = built
    write_colmap(tmp_path, found.exchanged(), binary=False)
    theirs = oracle("pycolmap").Reconstruction(str(tmp_path))
    assert theirs.num_reg_images() == 5
    assert theirs.num_points3D() == len(found.points)
    theirs.update_point_3d_errors()
    assert theirs.compute_mean_reprojection_error() == pytest.approx(float(found.errors.mean()), rel=0.02)
    again = read_colmap(tmp_path)
    torch.testing.assert_close(again.points, found.points)
    matrix = torch.stack([view.camera.world_to_camera for view in again.views])
    torch.testing.assert_close(matrix, found.cameras.world_to_camera, atol=1e-9, rtol=0)


def test_pycolmaps_bundle_adjustment_finds_nothing_better(built, tmp_path):
    _, found = built
    colmap = oracle("pycolmap")
    write_colmap(tmp_path, found.exchanged(), binary=False)
    theirs = colmap.Reconstruction(str(tmp_path))
    options = colmap.BundleAdjustmentOptions()
    options.refine_focal_length = options.refine_principal_point = options.refine_extra_params = False
    colmap.bundle_adjustment(theirs, options)
    theirs.update_point_3d_errors()
    assert theirs.compute_mean_reprojection_error() == pytest.approx(float(found.errors.mean()), rel=0.02)


def test_cloud_as_ply(built, tmp_path):
    _, found = built
    points, _ = read_ply(write_ply(tmp_path / "cloud.ply", found.points, found.colours))
    torch.testing.assert_close(points.double(), found.points, rtol=1e-6, atol=1e-6)


def test_tracks_join_matches_and_spoilt_ones_go():
    pixels = [torch.arange(8.0).view(4, 2).double() + k for k in range(3)]

    def pair(i, j, matches):
        return Pair((i, j), torch.tensor(matches), None, 0.0)

    joined = tracks_of(pixels, [pair(0, 1, [[0, 0], [1, 1]]), pair(1, 2, [[0, 3], [1, 2]]), pair(0, 2, [[2, 2]])])
    assert isinstance(joined, Observations)
    # features 1 and 2 of view 0 would be one point: that track is gone
    assert joined.camera.tolist() == [0, 1, 2]
    assert joined.point.tolist() == [0, 0, 0]
    torch.testing.assert_close(joined.pixels, torch.stack([pixels[0][0], pixels[1][0], pixels[2][3]]))


def test_a_camera_that_only_turns_is_refused():
    _, pixels, matches, K = views(3, turn_only=True)
    with pytest.raises(ValueError, match="taken from one place"):
        StructureFromMotion().from_matches(pixels, matches, K, SIZE, SIZE)


def test_two_identical_pictures_are_refused():
    image = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(image, size=96, mode="bicubic").clamp(0, 1)
    K = intrinsics(96.0, 96.0, 48.0, 48.0)
    with pytest.raises(ValueError, match="taken from one place"):
        StructureFromMotion(max_keypoints=200).reconstruct(image.repeat(2, 1, 1, 1), K)


@pytest.mark.unchecked  # shapes are part of what is wrong
def test_what_is_refused():
    build, K = StructureFromMotion(max_keypoints=64), intrinsics(64.0, 64.0, 32.0, 32.0)
    with pytest.raises(ValueError, match="at least two"):
        build.reconstruct(torch.rand(1, 3, 64, 64), K)
    with pytest.raises(ValueError, match="NaN"):
        build.reconstruct(torch.full((2, 3, 64, 64), math.nan), K)
    with pytest.raises(ValueError, match="no two have 15 matches"):
        build.reconstruct(torch.full((2, 3, 64, 64), 0.5), K)
    with pytest.raises(ValueError, match="K: expected"):
        build.from_matches([torch.zeros(9, 2)] * 2, {}, torch.eye(4), 64, 64)
    for wrong in ({"least": 3}, {"threshold": 0.0}, {"refine": "all"}, {"max_keypoints": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            StructureFromMotion(**wrong)
