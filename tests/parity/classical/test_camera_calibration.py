"""Calibration beside OpenCV's: exact corners, noisy corners, rendered boards; corners beside OpenCV's detector; bad input."""

from functools import cache

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from oculi.classical.camera_calibration import (
    CameraCalibration,
    board_poses,
    board_views,
    experiment,
    intrinsics_from_homographies,
    true_corners,
)
from oculi.classical.chessboard import board_corners, find_chessboard, refine_corners, render_chessboard
from oculi.geometry.camera import Camera
from oculi.geometry.homography import homography_dlt
from oculi.ops.gaussian_blur import gaussian_blur

ROWS, COLUMNS, SQUARE, HEIGHT, WIDTH = 6, 9, 0.03, 240, 320
LENS = torch.tensor([-0.25, 0.08, 0.001, -0.0008, -0.01], dtype=torch.float64)


def seen(views: int, lens: torch.Tensor = LENS, noise: float = 0.0) -> tuple[Camera, torch.Tensor]:
    cameras = board_views(views, ROWS, COLUMNS, SQUARE, HEIGHT, WIDTH)
    corners = true_corners(cameras, lens, ROWS, COLUMNS, SQUARE)
    g = torch.Generator().manual_seed(3)
    return cameras, corners + noise * torch.randn(corners.shape, generator=g, dtype=torch.float64)


def opencvs(corners: torch.Tensor, flags: int = 0) -> tuple[float, np.ndarray, np.ndarray]:
    board = [board_corners(ROWS, COLUMNS, SQUARE).numpy().astype(np.float32)] * len(corners)
    rms, K, lens, _, _ = cv2.calibrateCamera(
        board, [c.numpy().astype(np.float32) for c in corners], (WIDTH, HEIGHT), None, None, flags=flags,
        criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-14),
    )  # fmt: skip
    return rms, K, lens.ravel()


@cache
def boards() -> tuple[Camera, torch.Tensor]:
    cameras = board_views(6, ROWS, COLUMNS, SQUARE, HEIGHT, WIDTH)
    return cameras, render_chessboard(cameras, LENS, ROWS, COLUMNS, SQUARE)


@pytest.mark.parametrize("views", [3, 6])
def test_exact_corners_give_the_exact_camera(views):
    cameras, corners = seen(views, torch.zeros(5).double())
    H = homography_dlt(board_corners(ROWS, COLUMNS, SQUARE)[:, :2].expand(views, -1, 2), corners)
    for skew in (False, True):
        K = intrinsics_from_homographies(H, HEIGHT, WIDTH, skew)
        torch.testing.assert_close(K, cameras.K[0], atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(board_poses(H, K), cameras.world_to_camera, atol=1e-6, rtol=0)


def test_refinement_recovers_camera_lens_and_poses():
    cameras, corners = seen(6)
    found = CameraCalibration(ROWS, COLUMNS, SQUARE).fit(corners, HEIGHT, WIDTH)
    torch.testing.assert_close(found.K, cameras.K[0], atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(found.distortion, LENS, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.world_to_camera, cameras.world_to_camera, atol=1e-6, rtol=0)
    assert found.rms < 1e-6


def test_noisy_corners_give_opencvs_camera():
    cameras, corners = seen(8, noise=0.2)
    found = CameraCalibration(ROWS, COLUMNS, SQUARE).fit(corners, HEIGHT, WIDTH)
    rms, K, lens = opencvs(corners)
    assert found.rms == pytest.approx(rms, rel=1e-3)
    assert found.rms <= rms * 1.0001
    K[:2, 2] += 0  # the same pixels went to both: no half-pixel shift between them
    np.testing.assert_allclose(found.K.numpy(), K, atol=0.2)
    np.testing.assert_allclose(found.distortion[:4].numpy(), lens[:4], atol=0.02)
    assert float((found.K - cameras.K[0]).abs().max()) < 5 * float(found.deviation[:4].max())


def test_without_a_lens_it_is_opencvs_too():
    _, corners = seen(5, torch.zeros(5).double(), noise=0.2)
    found = CameraCalibration(ROWS, COLUMNS, SQUARE, distortion=False).fit(corners, HEIGHT, WIDTH)
    fixed = cv2.CALIB_FIX_K1 | cv2.CALIB_FIX_K2 | cv2.CALIB_FIX_K3 | cv2.CALIB_ZERO_TANGENT_DIST
    rms, K, _ = opencvs(corners, fixed)
    assert found.rms == pytest.approx(rms, rel=1e-3)
    np.testing.assert_allclose(found.K.numpy(), K, atol=0.1)
    assert found.distortion.tolist() == [0.0] * 5


def test_skew_is_found():
    cameras, _ = seen(6)
    cameras.K = cameras.K.clone()
    cameras.K[:, 0, 1] = 3.0
    corners = true_corners(cameras, LENS, ROWS, COLUMNS, SQUARE)
    found = CameraCalibration(ROWS, COLUMNS, SQUARE, skew=True).fit(corners, HEIGHT, WIDTH)
    torch.testing.assert_close(found.K, cameras.K[0], atol=1e-3, rtol=1e-6)


def test_corners_on_rendered_boards():
    cameras, images = boards()
    truth = true_corners(cameras, LENS, ROWS, COLUMNS, SQUARE)
    ours, theirs = [], []
    for image, there in zip(images, truth, strict=True):
        corners = find_chessboard(image, ROWS, COLUMNS)
        assert corners is not None
        ours.append(torch.linalg.norm(corners - there, dim=-1))
        grey = (image[0].numpy() * 255).round().astype(np.uint8)
        found, places = cv2.findChessboardCorners(grey, (COLUMNS, ROWS))
        if found:
            criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-6)
            places = torch.from_numpy(cv2.cornerSubPix(grey, places, (5, 5), (-1, -1), criteria)).reshape(-1, 2) + 0.5
            apart = [torch.linalg.norm(p - there, dim=-1) for p in (places, places.flip(0))]
            theirs.append(min(apart, key=lambda a: float(a.sum())))
    rms = float(torch.cat(ours).square().mean().sqrt())
    assert rms < 0.1
    assert rms <= 1.1 * float(torch.cat(theirs).square().mean().sqrt())


def test_rms_on_rendered_boards_is_opencvs():
    cameras, images = boards()
    system = CameraCalibration(ROWS, COLUMNS, SQUARE)
    corners, found = system.find(list(images))
    assert found == list(range(6))
    ours = system.fit(corners, HEIGHT, WIDTH)
    rms, _, _ = opencvs(corners)
    assert ours.rms <= 1.01 * rms
    assert float((ours.K.diagonal()[:2] / cameras.K[0, 0, 0] - 1).abs().max()) < 0.005


def test_turned_dark_and_noisy_boards_are_found_in_the_same_order():
    _, images = boards()
    upright = find_chessboard(images[0], ROWS, COLUMNS)
    turned = find_chessboard(torch.rot90(images[0], 1, (1, 2)), ROWS, COLUMNS)
    assert upright is not None
    assert turned is not None
    back = torch.stack([WIDTH - turned[:, 1], turned[:, 0]], -1)
    torch.testing.assert_close(back, upright, atol=0.02, rtol=0)
    ramp = torch.linspace(0.2, 1.0, WIDTH)
    g = torch.Generator().manual_seed(0)
    harder = (0.7 * images[0] * ramp + 0.02 * torch.randn(images[0].shape, generator=g)).clamp(0, 1)
    found = find_chessboard(harder, ROWS, COLUMNS)
    assert found is not None
    torch.testing.assert_close(found, upright, atol=0.3, rtol=0)


def test_what_shows_no_whole_board_gives_none():
    _, images = boards()
    assert find_chessboard(torch.full((1, 80, 100), 0.5), 3, 4) is None
    assert find_chessboard(torch.rand(3, 80, 100, generator=torch.Generator().manual_seed(0)), 3, 4) is None
    assert find_chessboard(images[0][:, : HEIGHT // 2], ROWS, COLUMNS) is None
    assert find_chessboard(torch.zeros(1, 4, 4), 3, 4) is None


def test_large_blurred_boards_and_scikit_images():
    cameras = board_views(1, 5, 6, SQUARE, 420, 560)
    truth = true_corners(cameras, LENS, 5, 6, SQUARE)[0]
    g = torch.Generator().manual_seed(0)
    image = gaussian_blur(render_chessboard(cameras, LENS, 5, 6, SQUARE), 3.0)[0]
    found = find_chessboard(image + 0.02 * torch.randn(image.shape, generator=g), 5, 6)
    assert found is not None
    assert float((found - truth).square().sum(-1).mean().sqrt()) < 0.2
    board = torch.from_numpy(skimage.data.checkerboard()).float()[None] / 255  # 8 x 8 squares of 25 pixels
    found = find_chessboard(board, 7, 7)
    assert found is not None
    y, x = torch.meshgrid(torch.arange(1.0, 8), torch.arange(1.0, 8), indexing="ij")
    torch.testing.assert_close(found.view(7, 7, 2), 25 * torch.stack([x, y], -1), atol=1.5, rtol=0)


def test_one_corner_is_refined_to_its_place():
    y, x = torch.meshgrid(torch.arange(320.0) + 0.5, torch.arange(320.0) + 0.5, indexing="ij")
    fine = ((x < 162) ^ (y < 159)).float()
    grey = torch.nn.functional.avg_pool2d(fine[None, None], 8)[0, 0]
    found = refine_corners(grey, torch.tensor([[21.0, 19.0]]))
    torch.testing.assert_close(found, torch.tensor([[162 / 8, 159 / 8]]), atol=0.05, rtol=0)


BOARD = board_corners(ROWS, COLUMNS, SQUARE)[:, :2]


@pytest.mark.parametrize(
    ("corners", "message"),
    [
        (BOARD[None] * 1000, "at least 2 views"),
        (torch.stack([BOARD * 1000, BOARD * 1000 + 5]), "do not fix K"),
        (torch.stack([BOARD[:5], BOARD[:5]]), "expected views x 54"),
        (torch.stack([BOARD, BOARD * float("nan")]), "finite"),
        (torch.stack([BOARD * 1000, BOARD * 0]), "one line or coincide"),
    ],
)
@pytest.mark.unchecked
def test_bad_corners(corners, message):
    with pytest.raises(ValueError, match=message):
        CameraCalibration(ROWS, COLUMNS, SQUARE).fit(corners, HEIGHT, WIDTH)


def test_noisy_parallel_boards_are_refused():
    cameras, _ = seen(4)
    level = torch.eye(4).double().repeat(4, 1, 1)
    level[:, :3, 3] = torch.tensor([[-0.12, -0.08, 0.4], [-0.1, -0.05, 0.5], [-0.14, -0.1, 0.45], [-0.1, -0.1, 0.6]])
    cameras = Camera(cameras.K, level, HEIGHT, WIDTH)
    corners = true_corners(cameras, 0 * LENS, ROWS, COLUMNS, SQUARE)
    corners = corners + 0.2 * torch.randn(corners.shape, generator=torch.Generator().manual_seed(0)).double()
    with pytest.raises(ValueError, match="turn the board"):
        CameraCalibration(ROWS, COLUMNS, SQUARE).fit(corners, HEIGHT, WIDTH)


@pytest.mark.unchecked
def test_bad_arguments():
    with pytest.raises(ValueError, match="rows, columns"):
        CameraCalibration(1, 5)
    with pytest.raises(ValueError, match="square"):
        CameraCalibration(square=0.0)
    with pytest.raises(ValueError, match="finite"):
        find_chessboard(torch.full((1, 50, 50), float("nan")), 3, 4)
    with pytest.raises(ValueError, match="none of 1 shows"):
        CameraCalibration().find([torch.zeros(1, 50, 50)])


def test_experiment_in_small():
    figures = experiment(views=4, height=240, width=320)
    assert figures["found"] == 1.0
    assert figures["corner_rms"] < 0.15
    assert figures["focal_error"] < 0.05
