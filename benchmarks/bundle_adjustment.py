r"""Bundle adjustment beside SciPy's sparse least squares: the same cameras, points and start, one thread, one process.

    python benchmarks/bundle_adjustment.py --cameras 12 --points 1000

Cameras on an arc look at points in a cube; each point is seen by about half of them, with half a pixel of noise. Poses and
points start perturbed. SciPy gets the sparsity of the Jacobian (`jac_sparsity`, finite differences, trust region with
LSMR), first as its cookbook does, then with our analytic Jacobian as a sparse matrix. The ratio is our processor time by
theirs; the costs must be equal to a millionth.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import numpy as np
import scipy
import torch
from scipy.optimize import least_squares
from scipy.sparse import csr_matrix
from scipy.spatial.transform import Rotation
from threadpoolctl import threadpool_limits
from torch import Tensor

from oculi.geometry.bundle_adjustment import Observations, bundle_adjustment
from oculi.geometry.camera import Camera, intrinsics, look_at


def made(cameras: int, points: int, seed: int = 0) -> tuple[Camera, Tensor, Observations]:
    """Perturbed cameras and points with what the true ones saw; the first camera and the scale's gauge are true."""
    g = torch.Generator().manual_seed(seed)
    turn = torch.linspace(-1.0, 1.0, cameras, dtype=torch.float64)
    eyes = torch.stack([6 * turn.sin(), -6 * turn.cos(), 1 + 0.5 * (3 * turn).sin()], 1)
    zero, up = torch.zeros(cameras, 3, dtype=torch.float64), torch.tensor([0.0, 0, 1], dtype=torch.float64)
    K = intrinsics(500.0, 500.0, 320.0, 240.0).double().expand(cameras, 3, 3)
    truth = Camera(K, look_at(eyes, zero, up), 480, 640)
    cloud = 3 * torch.rand(points, 3, generator=g, dtype=torch.float64) - 1.5
    pixels, _ = truth.project(cloud.expand(cameras, -1, 3))
    seen = torch.rand(cameras, points, generator=g) < 0.5
    seen[torch.arange(points) % cameras, torch.arange(points)] = True
    seen[(torch.arange(points) + 1) % cameras, torch.arange(points)] = True
    camera, point = seen.nonzero(as_tuple=True)
    noise = 0.5 * torch.randn(len(camera), 2, generator=g, dtype=torch.float64)
    start = truth.world_to_camera.clone()
    turned = Rotation.from_rotvec(0.01 * torch.randn(cameras, 3, generator=g).numpy()).as_matrix()
    start[1:, :3, :3] = torch.from_numpy(turned)[1:] @ start[1:, :3, :3]
    start[1:, :3, 3] += 0.05 * torch.randn(cameras - 1, 3, generator=g, dtype=torch.float64)
    cloud = cloud + 0.05 * torch.randn(points, 3, generator=g, dtype=torch.float64)
    return Camera(K, start, 480, 640), cloud, Observations(camera, point, pixels[camera, point] + noise)


class WithScipy:
    """The same problem for `least_squares`: rotation vectors, translations and points, the first camera left out."""

    def __init__(self, cameras: Camera, points: Tensor, seen: Observations):
        self.camera, self.point, self.pixels = (v.numpy() for v in (seen.camera, seen.point, seen.pixels))
        self.K, self.first = cameras.K[0].numpy(), cameras.world_to_camera[:1].numpy()
        self.count, self.points = len(cameras), len(points)
        vectors = Rotation.from_matrix(cameras.R[1:].numpy()).as_rotvec()
        poses = np.concatenate([vectors, cameras.t[1:].numpy()], 1)
        self.start = np.concatenate([poses.ravel(), points.numpy().ravel()])
        rows = np.arange(len(self.camera))[:, None, None] * 2 + np.arange(2)[None, :, None]
        of_camera = (self.camera[:, None, None] - 1) * 6 + np.arange(6)
        of_point = 6 * (self.count - 1) + self.point[:, None, None] * 3 + np.arange(3)
        self.moves = np.broadcast_to(self.camera[:, None, None] > 0, (len(rows), 2, 6))
        shape_c, shape_p = (len(rows), 2, 6), (len(rows), 2, 3)
        self.rows = np.concatenate([np.broadcast_to(rows, shape_c)[self.moves], np.broadcast_to(rows, shape_p).ravel()])
        self.columns = np.concatenate(
            [np.broadcast_to(of_camera, shape_c)[self.moves], np.broadcast_to(of_point, shape_p).ravel()]
        )
        self.shape = (2 * len(rows), len(self.start))

    def parts(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        poses = x[: 6 * (self.count - 1)].reshape(-1, 6)
        R = np.concatenate([self.first[:, :3, :3], Rotation.from_rotvec(poses[:, :3]).as_matrix()])
        t = np.concatenate([self.first[:, :3, 3], poses[:, 3:]])
        turned = np.einsum("nij,nj->ni", R[self.camera], x[6 * (self.count - 1) :].reshape(-1, 3)[self.point])
        return R, turned, turned + t[self.camera], poses[:, :3]

    def residuals(self, x: np.ndarray) -> np.ndarray:
        local = self.parts(x)[2]
        pixels = local[:, :2] / local[:, 2:] * self.K[[0, 1], [0, 1]] + self.K[:2, 2]
        return (pixels - self.pixels).ravel()

    def sparsity(self) -> csr_matrix:
        return csr_matrix((np.ones(len(self.rows)), (self.rows, self.columns)), self.shape)

    def jacobian(self, x: np.ndarray) -> csr_matrix:
        R, turned, local, vectors = self.parts(x)
        f, z = self.K[0, 0], local[:, 2]
        D = np.zeros((len(z), 2, 3))
        D[:, 0, 0] = D[:, 1, 1] = f / z
        D[:, :, 2] = -f * local[:, :2] / z[:, None] ** 2
        spin = np.cross(turned[:, None], D) @ np.concatenate([np.eye(3)[None], left_jacobian(vectors)])[self.camera]
        values = np.concatenate([np.concatenate([spin, D], 2)[self.moves], (D @ R[self.camera]).ravel()])
        return csr_matrix((values, (self.rows, self.columns)), self.shape)


def left_jacobian(vector: np.ndarray) -> np.ndarray:
    """d of the turn's left increment by d of the rotation vector."""
    angle = np.linalg.norm(vector, axis=1)[:, None, None]
    cross = np.cross(np.eye(3)[None], vector[:, None])
    square = cross @ cross
    return np.eye(3) + (1 - np.cos(angle)) / angle**2 * cross + (angle - np.sin(angle)) / angle**3 * square


def main() -> None:
    """Solve with all, compare the costs, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, default=12)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)  # NumPy's threads too: as they wait they spin, and that would count as the next one's work
    cameras, points, seen = made(options.cameras, options.points)
    seconds: dict[str, list[float]] = {"ours": [], "jac_sparsity": [], "jac": []}
    costs: dict[str, float] = {}
    for repetition in range(options.repetitions + 1):
        start = time.process_time()
        ours = bundle_adjustment(cameras, points, seen)
        seconds["ours"].append(time.process_time() - start)
        costs["ours"] = ours.costs[-1]
        for name in ("jac_sparsity", "jac") if repetition < 2 else ():
            start = time.process_time()
            theirs = WithScipy(cameras, points, seen)
            how = {"jac_sparsity": theirs.sparsity()} if name == "jac_sparsity" else {"jac": theirs.jacobian}
            found = least_squares(theirs.residuals, theirs.start, x_scale="jac", ftol=1e-10, method="trf", **how)
            seconds[name].append(time.process_time() - start)
            costs[name] = float(found.cost)
    took = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    print(
        f"{options.cameras} cameras, {options.points} points, {len(seen)} observations: ours {took['ours']:.3f} s in"
        f" {len(ours.costs) - 1} steps, cost {costs['ours']:.6f}"
    )
    for name in ("jac_sparsity", "jac"):
        equal = abs(costs[name] - costs["ours"]) <= 1e-6 * costs["ours"]
        print(
            f"SciPy with {name}: {took[name]:.3f} s, cost {costs[name]:.6f}, equal {equal},"
            f" ratio {took['ours'] / took[name]:.4f}"
        )
    print(f"{platform.machine()}, 1 thread, torch {torch.__version__}, SciPy {scipy.__version__}")


if __name__ == "__main__":
    main()
