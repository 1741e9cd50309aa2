"""Homographies: exact from four matches, OpenCV's answer from many, pure rotations, degenerate input."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oculi.geometry.camera import Camera, intrinsics
from oculi.geometry.homography import (
    apply_homography,
    decompose_homography,
    homography_dlt,
    homography_of_rotation,
    random_homography,
    solve_dlt,
    solve_four_points,
    transfer_error,
    warp_by_homography,
)
from oracles import oracle
from two_views import two_views

SQUARE = torch.tensor([[0.0, 0], [100, 0], [100, 80], [0, 80]], dtype=torch.float64)


def moved(seed: int, n: int = 4) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return SQUARE + 30 * (torch.rand(4, 2, generator=g, dtype=torch.float64) - 0.5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_four_exact_matches_give_the_exact_map(seed):
    target = moved(seed)
    H = homography_dlt(SQUARE, target)
    torch.testing.assert_close(apply_homography(H, SQUARE), target, atol=1e-9, rtol=0)
    expected = cv2.getPerspectiveTransform(SQUARE.numpy().astype(np.float32), target.numpy().astype(np.float32))
    np.testing.assert_allclose(H.numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("away", [0.0, 1e4, 1e6])
def test_four_matches_in_closed_form_anywhere(away):
    """As the linear solution finds them; far from the origin triangles are small beside their coordinates."""
    source, target = (500 * torch.rand(200, 4, 2, generator=torch.Generator().manual_seed(k)).double() for k in (1, 2))
    target = source + 0.2 * target
    _, fixed = solve_dlt(source, target)
    shift = torch.eye(3).double()
    shift[:2, 2] = away
    found, well_posed = solve_four_points(source + away, target + away)
    found = torch.linalg.inv(shift) @ found @ shift
    found = found / found[:, 2:, 2:]
    assert int(well_posed.sum()) > 100
    assert not bool((well_posed & ~fixed).any())
    moved = transfer_error(found[well_posed], source[well_posed], target[well_posed])
    assert float(moved.max()) < 1e-8 * (1 + away)


def test_many_noisy_matches_give_opencvs_least_squares():
    g = torch.Generator().manual_seed(0)
    truth = homography_dlt(SQUARE, moved(3))
    source = 100 * torch.rand(50, 2, generator=g, dtype=torch.float64)
    target = apply_homography(truth, source) + 0.1 * torch.randn(50, 2, generator=g, dtype=torch.float64)
    ours = homography_dlt(source, target)
    theirs, _ = cv2.findHomography(source.numpy(), target.numpy(), method=0)
    mapped = apply_homography(ours, SQUARE)
    torch.testing.assert_close(mapped, apply_homography(torch.from_numpy(theirs), SQUARE), atol=0.05, rtol=0)
    assert float(transfer_error(ours, SQUARE, apply_homography(truth, SQUARE)).max()) < 0.3


def test_a_camera_that_only_rotates():
    K = intrinsics(100.0, 110.0, 50.0, 40.0).double()
    R = torch.linalg.matrix_exp(torch.tensor([[0, -0.1, 0.2], [0.1, 0, 0.05], [-0.2, -0.05, 0]], dtype=torch.float64))
    pose = torch.eye(4, dtype=torch.float64)
    turned = pose.clone()
    turned[:3, :3] = R
    points = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points[:, 2] += 6
    first, _ = Camera(K, pose, 80, 100).project(points)
    second, _ = Camera(K, turned, 80, 100).project(points)
    H = homography_of_rotation(K, R)
    torch.testing.assert_close(apply_homography(H, first), second, atol=1e-9, rtol=0)
    torch.testing.assert_close(homography_dlt(first, second), H / H[2, 2], atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_planes_and_poses_in_a_homography_are_opencvs(seed):
    views = two_views(seed, plane=True)
    H = -2 * homography_dlt(views.points, views.targets)
    found = torch.cat([part.flatten(1) for part in decompose_homography(H, views.K)], 1)
    _, *theirs = cv2.decomposeHomographyMat(H.numpy(), views.K.numpy())
    theirs = torch.tensor(np.stack([np.concatenate([np.ravel(x) for x in one]) for one in zip(*theirs, strict=True)]))
    assert len(theirs) == 4
    away = torch.cdist(found, theirs)
    assert float(away.amin(0).max()) < 1e-9
    assert float(away.amin(1).max()) < 1e-9
    both = decompose_homography(torch.stack([H, H]), views.K)
    assert all(torch.equal(part[1], other) for part, other in zip(both, decompose_homography(H, views.K), strict=True))


def test_without_a_baseline_the_plane_is_free():
    views = two_views(baseline=0.0)
    R, t, normal = decompose_homography(homography_of_rotation(views.K, views.R), views.K)
    assert float((R - views.R).abs().max()) < 1e-6
    assert float(t.abs().max()) < 1e-6
    assert bool(torch.isfinite(normal).all())


def test_a_batch_equals_its_members():
    targets = torch.stack([moved(i) for i in range(5)])
    together = homography_dlt(SQUARE.expand(5, 4, 2), targets)
    for i in range(5):
        torch.testing.assert_close(together[i], homography_dlt(SQUARE, targets[i]))


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (SQUARE[:3], SQUARE[:3], "at least 4"),
        (SQUARE, SQUARE[:3], "equal shapes"),
        (SQUARE * float("nan"), SQUARE, "finite"),
        (torch.arange(12.0).view(6, 2), torch.arange(12.0).view(6, 2), "one line"),
        (torch.zeros(4, 2), SQUARE.float(), "one line"),
        (SQUARE[[0, 1, 2, 2]], SQUARE[[0, 1, 2, 2]], "one line"),
    ],
)
@pytest.mark.unchecked
def test_bad_input(source, target, message):
    with pytest.raises(ValueError, match=message):
        homography_dlt(source, target)


def test_three_points_on_a_line_do_not_fix_it():
    line = torch.tensor([[0.0, 0], [1, 0], [2, 0], [0, 1]], dtype=torch.float64)
    assert not bool(solve_dlt(line, SQUARE)[1])
    assert not bool(solve_dlt(SQUARE, line)[1])


def test_points_sent_to_infinity_have_infinite_error():
    H = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    assert transfer_error(H, torch.zeros(1, 2), torch.zeros(1, 2)).isinf().all()


def test_random_homographies_are_inverted_and_bounded():
    H = random_homography(50, 80, 100, torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.linalg.inv(H) @ H, torch.eye(3).double().expand(50, 3, 3), atol=1e-9, rtol=0)
    points = SQUARE.expand(50, 4, 2)
    back = apply_homography(torch.linalg.inv(H), apply_homography(H, points))
    torch.testing.assert_close(back, points, atol=1e-4, rtol=0)
    assert float((apply_homography(H, points) - points).norm(dim=-1).max()) < 100
    still = random_homography(2, 80, 100, None, 0.0, 0.0, 0.0, 0.0)
    torch.testing.assert_close(still, torch.eye(3).double().expand(2, 3, 3), atol=1e-9, rtol=0)
    again = random_homography(50, 80, 100, torch.Generator().manual_seed(0))
    assert torch.equal(again, H)


def test_warped_pictures_are_opencvs_and_kornias():
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    image = (0.5 + 0.25 * torch.sin(x / 5) + 0.25 * torch.cos(y / 4))[None, None]
    H = random_homography(1, 60, 80, torch.Generator().manual_seed(1))
    ours, inside = warp_by_homography(image, H)
    shift = torch.tensor([[1.0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]], dtype=torch.float64)
    at_centres = torch.linalg.inv(shift) @ H[0] @ shift  # both count pixel centres in whole numbers
    theirs = cv2.warpPerspective(image[0, 0].numpy(), at_centres.numpy(), (80, 60), flags=cv2.INTER_LINEAR)
    core = torch.nn.functional.avg_pool2d(inside[:, None].float(), 5, 1, 2)[0, 0] == 1
    np.testing.assert_allclose(ours[0, 0][core].numpy(), theirs[core.numpy()], atol=5e-3)  # 1/32 pixel of OpenCV's
    kornia = oracle("kornia")
    expected = kornia.geometry.warp_perspective(image.double(), at_centres[None], (60, 80), align_corners=True)
    torch.testing.assert_close(ours[0, 0][core], expected[0, 0][core].float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("wrong", [{"perspective": 0.3}, {"scale": -1.0}, {"rotation": float("nan")}, {"count": 0}])
@pytest.mark.unchecked
def test_random_homographies_refuse(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        random_homography(**{"count": 1, "height": 4, "width": 4, **wrong})
