"""Bundle adjustment: SciPy's optimum, World cameras brought back, what never happens and what is refused."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from scipy.sparse import csr_matrix

from oculi.data.world.views import pictures
from oculi.geometry.bundle_adjustment import (
    Observations,
    _jacobians,
    _pairs,
    _residuals,
    _State,
    _through_all,
    _through_pairs,
    bundle_adjustment,
    reprojection_errors,
)
from oculi.geometry.camera import Camera, intrinsics, look_at
from oculi.geometry.rotations import rotation_from_vector


def ring(cameras: int = 5, points: int = 40, noise: float = 0.5, seed: int = 0):
    """True cameras and points, and noisy observations of every point by most cameras."""
    g = torch.Generator().manual_seed(seed)
    turn = torch.linspace(-0.8, 0.8, cameras, dtype=torch.float64)
    eyes = torch.stack([5 * turn.sin(), -5 * turn.cos(), 1 + 0.3 * turn], 1)
    up = torch.stack([(5 * turn).sin(), 0 * turn, 1 + 0 * turn], 1)  # rolled, or the principal point would be loose
    K = intrinsics(400.0, 410.0, 160.0, 120.0).double().expand(cameras, 3, 3)
    truth = Camera(K, look_at(eyes, torch.zeros(cameras, 3, dtype=torch.float64), up), 240, 320)
    cloud = 2 * torch.rand(points, 3, generator=g, dtype=torch.float64) - 1
    pixels, _ = truth.project(cloud.expand(cameras, -1, 3))
    pixels = pixels + noise * torch.randn(pixels.shape, generator=g, dtype=torch.float64)
    keep = torch.rand(cameras, points, generator=g) < 0.7
    keep[:2] = True
    camera, point = keep.nonzero(as_tuple=True)
    return truth, cloud, Observations(camera, point, pixels[camera, point])


def perturbed(cameras: Camera, turn: float, shift: float, seed: int = 1) -> Camera:
    """All cameras but the first turned by about `turn` radians and moved by about `shift`."""
    g = torch.Generator().manual_seed(seed)
    matrix = cameras.world_to_camera.clone()
    vectors = turn * torch.randn(len(cameras), 3, generator=g, dtype=torch.float64)
    matrix[1:, :3, :3] = rotation_from_vector(vectors)[1:].to(matrix) @ matrix[1:, :3, :3]
    matrix[1:, :3, 3] += shift * torch.randn(len(cameras) - 1, 3, generator=g, dtype=torch.float64).to(matrix)
    return Camera(cameras.K, matrix, cameras.height, cameras.width)


def scipys_cost(cameras: Camera, points, seen: Observations, huber: float) -> float:
    """The optimum of `least_squares` from the same start, by finite differences."""
    count = len(cameras)
    first = cameras.world_to_camera[:1]

    def residuals(x):
        x = torch.from_numpy(x)
        pose = x[: 6 * (count - 1)].view(-1, 6)
        R = torch.cat([first[:, :3, :3], rotation_from_vector(pose[:, :3]) @ cameras.R[1:]])
        t = torch.cat([first[:, :3, 3], pose[:, 3:]])
        cloud = x[6 * (count - 1) :].view(-1, 3)
        r = _residuals(_State(cameras.K, R, t, cloud), seen)[0]
        length = r.norm(dim=1, keepdim=True).clamp_min(1e-12)
        inner = length.clamp_max(huber)
        return (r / length * (2 * inner * (length - inner / 2)).sqrt()).flatten().numpy()

    pose = torch.cat([torch.zeros(count - 1, 3, dtype=torch.float64), cameras.t[1:]], 1)
    start = torch.cat([pose.flatten(), points.flatten()]).numpy()
    sparsity = np.zeros((len(seen), 2, len(start)))
    row, camera, point = np.arange(len(seen)), seen.camera.numpy(), seen.point.numpy()
    for k in range(6):
        sparsity[row[camera > 0], :, 6 * (camera[camera > 0] - 1) + k] = 1
    for k in range(3):
        sparsity[row, :, 6 * (count - 1) + 3 * point + k] = 1
    how = {"jac_sparsity": csr_matrix(sparsity.reshape(-1, len(start)))}
    found = least_squares(residuals, start, **how, x_scale="jac", ftol=1e-12, max_nfev=60)
    return float(found.cost)


@pytest.mark.parametrize("huber", [math.inf, 0.7])
def test_optimum_is_scipys(huber):
    truth, cloud, seen = ring(4, 16)
    start = perturbed(truth, 0.01, 0.03)
    found = bundle_adjustment(start, cloud, seen, huber=huber, iterations=200)
    expected = scipys_cost(start, cloud, seen, huber)
    assert found.converged
    assert found.costs[-1] == pytest.approx(expected, rel=1e-5)


def test_jacobians_are_autograds():
    truth, cloud, seen = ring(3, 6)
    K = truth.K.clone()
    K[:, 0, 1] = 3.0  # skew
    state = _State(K, truth.R, truth.t, cloud)

    def residual(pose, points, rest):
        k = K.clone()
        k[:, 0, 0], k[:, 1, 1] = k[:, 0, 0] + rest[0], k[:, 1, 1] + rest[1]
        k[:, :2, 2] = k[:, :2, 2] + rest[2:]
        moved = _State(k, rotation_from_vector(pose[:, :3]) @ truth.R, truth.t + pose[:, 3:], cloud + points)
        return _residuals(moved, seen)[0]

    still = torch.zeros(3, 6, dtype=torch.float64), torch.zeros_like(cloud), torch.zeros(4, dtype=torch.float64)
    by_pose, by_point, by_rest = torch.autograd.functional.jacobian(residual, still)
    A, B, Q = _jacobians(state, seen, _residuals(state, seen)[2], "pinhole")
    n = torch.arange(len(seen))
    torch.testing.assert_close(A, by_pose[n, :, seen.camera])
    torch.testing.assert_close(B, by_point[n, :, seen.point])
    torch.testing.assert_close(Q, by_rest)


def test_schur_complement_is_the_same_by_pairs_and_as_one_product(monkeypatch):
    _, _, seen = ring(5, 30)
    seen = seen[seen.point.argsort(stable=True)]
    g = torch.Generator().manual_seed(0)
    W = torch.randn(len(seen), 6, 3, generator=g, dtype=torch.float64)
    V = torch.randn(30, 3, 3, generator=g, dtype=torch.float64)
    V = V @ V.transpose(1, 2)
    half = _through_pairs(W @ V[seen.point], W, seen, 5, _pairs(seen.point, 30))
    whole = _through_all(W @ V[seen.point], W, seen, 5, 30)
    torch.testing.assert_close(whole, half + half.T)
    monkeypatch.setattr("oculi.geometry.bundle_adjustment.DENSE_AT_ONCE", 18 * 5 * 7)  # seven points at a time
    torch.testing.assert_close(_through_all(W @ V[seen.point], W, seen, 5, 30), whole)


def test_world_cameras_return_to_their_places():
    """Points of the depth maps, seen by all views: poses within 0.1 degree and 0.1 % of the scene after perturbation."""
    samples = pictures(6, 64, seed=2)
    cameras = Camera.stack([s.camera for s in samples])
    cameras = Camera(cameras.K.double(), cameras.world_to_camera.double(), 64, 64)
    origins, directions = cameras[0].rays()
    chosen = torch.randperm(64 * 64, generator=torch.Generator().manual_seed(0))[:300]
    cloud = (origins + samples[0].depth.double().reshape(-1, 1) * directions)[chosen]
    pixels, depth = cameras.project(cloud.expand(6, -1, 3))
    camera, point = ((depth > 0) & ((pixels > -64) & (pixels < 128)).all(-1)).nonzero(as_tuple=True)
    start = perturbed(cameras, 0.02, 0.1)
    start.world_to_camera[5, :3, 3] = cameras.world_to_camera[5, :3, 3]  # whichever is farthest holds the scale
    start.world_to_camera[:, :3, 3] = torch.where(
        torch.arange(6)[:, None] == int((cameras.center - cameras.center[0]).norm(dim=1).argmax()),
        cameras.t, start.world_to_camera[:, :3, 3],
    )  # fmt: skip
    found = bundle_adjustment(start, cloud + 0.02, Observations(camera, point, pixels[camera, point]), iterations=100)
    scale = (cameras.center - cameras.center[0]).norm() / (found.cameras.center - found.cameras.center[0]).norm()
    centres = cameras.center[0] + scale * (found.cameras.center - cameras.center[0])
    turn = (found.cameras.R @ cameras.R.transpose(1, 2)).diagonal(dim1=1, dim2=2).sum(1)
    assert float(torch.rad2deg(((turn - 1) / 2).clamp(-1, 1).acos()).max()) < 0.1
    assert float((centres - cameras.center).norm(dim=1).max()) < 0.001 * 7
    assert float(found.errors.max()) < 1e-3


def test_cost_never_increases_and_the_gauge_stands_still():
    truth, cloud, seen = ring(5, 30)
    start = perturbed(truth, 0.05, 0.2)
    found = bundle_adjustment(start, cloud + 0.1, seen, huber=1.0)
    assert all(later < earlier for earlier, later in zip(found.costs, found.costs[1:]))
    assert torch.equal(found.cameras.world_to_camera[0], start.world_to_camera[0])
    far = int((start.center - start.center[0]).norm(dim=1).argmax())
    assert int((found.cameras.t[far] == start.t[far]).sum()) == 1
    errors, depth = reprojection_errors(found.cameras, found.points, seen)
    torch.testing.assert_close(errors, found.errors)
    assert bool((depth > 0).all())


def test_outliers_pull_less_under_huber():
    truth, cloud, seen = ring(5, 40, noise=0.2)
    wrong = torch.arange(len(seen)) % 17 == 5
    seen.pixels[wrong] += 40.0
    start = perturbed(truth, 0.005, 0.01)
    distances = []
    for huber in (math.inf, 0.5):
        found = bundle_adjustment(start, cloud, seen, huber=huber, iterations=100)
        distances.append(float(found.errors[~wrong].median()))
    assert distances[1] < 0.5 < distances[0]


@pytest.mark.parametrize("refine", ["focal", "pinhole"])
def test_intrinsics_are_recovered(refine):
    truth, cloud, seen = ring(5, 60, noise=0.0)
    wrong = Camera(truth.K.clone(), truth.world_to_camera, 240, 320)
    wrong.K[:, :2, :2] *= 1.05
    if refine == "pinhole":
        wrong.K[:, :2, 2] += torch.tensor([4.0, -6.0])
    found = bundle_adjustment(wrong, cloud, seen, refine=refine, iterations=200)
    torch.testing.assert_close(found.cameras.K, truth.K.contiguous(), rtol=1e-4, atol=1e-2)


def test_fixed_cameras_and_points_stay():
    truth, cloud, seen = ring(4, 30)
    fixed = torch.tensor([True, True, False, False])
    held = torch.arange(30) < 10
    found = bundle_adjustment(perturbed(truth, 0.01, 0.02), cloud, seen, fixed=fixed, fixed_points=held)
    start = perturbed(truth, 0.01, 0.02)
    assert torch.equal(found.cameras.world_to_camera[:2], start.world_to_camera[:2])
    assert not torch.equal(found.cameras.world_to_camera[2:], start.world_to_camera[2:])
    assert torch.equal(found.points[:10], cloud[:10])
    assert not torch.equal(found.points[10:], cloud[10:])


def test_perfect_input_stays_and_a_point_seen_once_does_no_harm():
    truth, cloud, seen = ring(3, 20, noise=0.0)
    once = seen[(seen.point != 7) | (seen.camera == 0)]
    found = bundle_adjustment(truth, cloud, once)
    assert found.converged
    torch.testing.assert_close(found.points, cloud)
    torch.testing.assert_close(found.cameras.world_to_camera, truth.world_to_camera)


@pytest.mark.unchecked  # shapes are part of what is wrong
def test_what_is_refused():
    truth, cloud, seen = ring(3, 20)
    with pytest.raises(ValueError, match="at least two"):
        bundle_adjustment(truth[torch.tensor([0])], cloud, seen)
    with pytest.raises(ValueError, match="points: expected p x 3"):
        bundle_adjustment(truth, cloud[:0], seen)
    with pytest.raises(ValueError, match="NaN"):
        bundle_adjustment(truth, cloud * math.nan, seen)
    with pytest.raises(ValueError, match="finite pixels"):
        bundle_adjustment(truth, cloud, Observations(seen.camera, seen.point, seen.pixels * math.inf))
    with pytest.raises(ValueError, match=r"observations\.camera: expected 0 to 2"):
        bundle_adjustment(truth, cloud, Observations(seen.camera + 1, seen.point, seen.pixels))
    with pytest.raises(ValueError, match="behind"):
        bundle_adjustment(truth, cloud - 20 * truth.center.new_tensor([0, -1, 0]) * -1, seen)
    with pytest.raises(ValueError, match="refine"):
        bundle_adjustment(truth, cloud, seen, refine="all")
    with pytest.raises(ValueError, match="huber"):
        bundle_adjustment(truth, cloud, seen, huber=0.0)
    with pytest.raises(ValueError, match="fixed: expected 3 booleans"):
        bundle_adjustment(truth, cloud, seen, fixed=torch.zeros(2, dtype=torch.bool))
    differ = Camera(
        truth.K * torch.tensor([1.0, 1.1, 1.2], dtype=torch.float64)[:, None, None], truth.world_to_camera, 9, 9
    )
    with pytest.raises(ValueError, match="theirs differ"):
        bundle_adjustment(differ, cloud, seen, refine="focal")
