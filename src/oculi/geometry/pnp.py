r"""Perspective-n-point: a camera's pose from points of the world and where they appear in its picture.

    w x = R X + t        x = K^{-1} [u v 1]^T: calibrated coordinates (X / Z, Y / Z)

Three points (P3P). With unit rays y_i, depths d_i along them and b_ij = y_i . y_j the triangle's sides say

    d_i^2 + d_j^2 - 2 b_ij d_i d_j = |X_i - X_j|^2        three quadrics  d^T M_ij d = a_ij

Two combinations D_1, D_2 of them have zero on the right. det(D_1 + g D_2) = 0, a cubic in g, gives a pair of planes
through the solutions; each plane meets D_2 in two rays. Up to four poses; the depths are polished by Newton steps.

More points: Levenberg-Marquardt on the squared distance in the picture from a start near it; the pose is turned and
moved in the camera's frame, six unknowns.

Persson, Nordberg: Lambda Twist: an accurate fast robust perspective three point (P3P) solver, ECCV 2018 (their cubic;
the conics are intersected in homogeneous form here).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from oculi.geometry.polynomials import cubic_roots, pencil_determinant
from oculi.geometry.rotations import rotation_from_vector


def transformed(
    world_to_camera: Float[Tensor, "*batch 4 4"], points: Float[Tensor, "*#batch n 3"]
) -> Float[Tensor, "*batch n 3"]:
    """Points in the camera's frame."""
    return points @ world_to_camera[..., :3, :3].transpose(-1, -2) + world_to_camera[..., None, :3, 3]


def pose_matrix(R: Float[Tensor, "*batch 3 3"], t: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4 4"]:
    """[[R, t], [0, 1]]."""
    matrix = F.pad(torch.cat([R, t[..., None]], -1), (0, 0, 0, 1))
    matrix[..., 3, 3] = 1
    return matrix


def solve_three_points(
    points: Float[Tensor, "*batch 3 3"], targets: Float[Tensor, "*batch 3 2"]
) -> tuple[Float[Tensor, "*batch 4 4 4"], Bool[Tensor, "*batch 4"]]:
    """Up to four `world_to_camera` that see three points at three places, and which of the four are solutions."""
    X = points.double()
    y = F.normalize(F.pad(targets.double(), (0, 1), value=1.0), dim=-1)
    i, j = [0, 0, 1], [1, 2, 2]
    b = (y[..., i, :] * y[..., j, :]).sum(-1)
    a = (X[..., i, :] - X[..., j, :]).square().sum(-1)
    a = a / a.amax(-1, keepdim=True)
    M = torch.zeros(*b.shape, 3, 3, dtype=b.dtype, device=b.device)
    for side, (p, q) in enumerate(zip(i, j)):
        M[..., side, p, p] = M[..., side, q, q] = 1
        M[..., side, p, q] = M[..., side, q, p] = -b[..., side]
    depths, valid = _common_rays(M, a)
    depths = _polished(depths, a, b)
    residual = _sides(depths, b) - a[..., None, :]
    valid = valid & (depths > 0).all(-1) & (residual.abs().amax(-1) < 1e-6)
    scale = (X[..., i, :] - X[..., j, :]).square().sum(-1).amax(-1).sqrt()
    seen = depths[..., None] * y[..., None, :, :] * scale[..., None, None, None]
    R, t = _aligned(X[..., None, :, :], seen)
    flat = torch.linalg.norm(torch.linalg.cross(X[..., 1, :] - X[..., 0, :], X[..., 2, :] - X[..., 0, :]), dim=-1)
    valid = valid & (flat > 1e-9 * scale.square())[..., None] & torch.isfinite(R).all(-1).all(-1)
    return pose_matrix(R, t).to(points.dtype), valid


def _common_rays(M: Float[Tensor, "*batch 3 3 3"], a: Float[Tensor, "*batch 3"]) -> tuple[Tensor, Tensor]:
    """Depths (... x 4 x 3) with d^T M_s d = a_s for the three sides s, and which of the four are real."""
    a = a[..., None, None]
    one = M[..., 0, :, :] * a[..., 2, :, :] - M[..., 2, :, :] * a[..., 0, :, :]
    two = M[..., 1, :, :] * a[..., 2, :, :] - M[..., 2, :, :] * a[..., 1, :, :]
    swap = (torch.linalg.det(one).abs() > torch.linalg.det(two).abs())[..., None, None]
    one, two = torch.where(swap, two, one), torch.where(swap, one, two)
    gamma, _ = cubic_roots(pencil_determinant(two, one))
    pair = (one + gamma[..., :1, None] * two).nan_to_num(0, 0, 0)
    values, vectors = torch.linalg.eigh(pair)  # ascending: one negative, one near zero, one positive
    low, middle, high = vectors.unbind(-1)
    p, q = values[..., 2:].clamp_min(0).sqrt(), (-values[..., :1]).clamp_min(0).sqrt()
    # v^T pair v = 0 on the planes spanned by the middle axis and p low +- q high
    axes = torch.stack([F.normalize(p * low + q * high, dim=-1), F.normalize(p * low - q * high, dim=-1)], -2)
    middle = middle[..., None, :].expand_as(axes)
    A, B, C = (_form(two, u, v) for u, v in ((axes, axes), (axes, middle), (middle, middle)))
    root = (B.square() - A * C).clamp_min(-1e-14)
    real = root >= -1e-10 * (B.square() + (A * C).abs())
    root = root.clamp_min(0).sqrt()
    # s A s + 2 s t B + t C t = 0 as s : t, without cancellation
    larger = -(B + torch.where(B >= 0, root, -root))
    first = larger[..., None] * axes + A[..., None] * middle
    second = C[..., None] * axes + larger[..., None] * middle
    rays = torch.cat([first, second], -2)
    size = _form(M[..., 0, :, :], rays, rays) + _form(M[..., 1, :, :], rays, rays) + _form(M[..., 2, :, :], rays, rays)
    wanted = a[..., 0, 0].sum(-1, keepdim=True)
    depths = rays * (wanted / size).sqrt()[..., None]
    depths = depths * depths.sum(-1, keepdim=True).sign()
    return depths, torch.cat([real, real], -1) & torch.isfinite(depths).all(-1)


def _form(M: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """u^T M v for vectors ... x k x 3."""
    return ((u @ M) * v).sum(-1)


def _sides(depths: Tensor, b: Tensor) -> Tensor:
    """Squared sides (12, 13, 23) of the triangle at these depths along the rays."""
    i, j = [0, 0, 1], [1, 2, 2]
    p, q = depths[..., i], depths[..., j]
    return p.square() + q.square() - 2 * b[..., None, :] * p * q


def _polished(depths: Float[Tensor, "*batch 4 3"], a: Tensor, b: Tensor) -> Float[Tensor, "*batch 4 3"]:
    """Two Newton steps on the three sides."""
    i, j = [0, 0, 1], [1, 2, 2]
    for _ in range(2):
        p, q, cosine = depths[..., i], depths[..., j], b[..., None, :]
        J = torch.zeros(*depths.shape, 3, dtype=depths.dtype, device=depths.device)
        rows = torch.arange(3, device=depths.device)
        J[..., rows, i] = 2 * (p - cosine * q)
        J[..., rows, j] = 2 * (q - cosine * p)
        step, singular = torch.linalg.solve_ex(J, _sides(depths, b) - a[..., None, :])
        step = torch.where((singular == 0)[..., None], step, 0)
        depths = depths - torch.where(step.abs() < 0.1 * depths.abs(), step, 0)
    return depths


def _aligned(X: Float[Tensor, "*#batch 3 3"], seen: Float[Tensor, "*#batch 3 3"]) -> tuple[Tensor, Tensor]:
    """R, t with seen = R X + t of two congruent triangles, by their frames."""
    turn = _frame(seen) @ _frame(X).transpose(-1, -2)
    return turn, seen.mean(-2) - (turn @ X.mean(-2)[..., None])[..., 0]


def _frame(triangle: Tensor) -> Tensor:
    """Orthonormal axes (columns) of a triangle: along its first side, across it, out of its plane."""
    side, other = triangle[..., 1, :] - triangle[..., 0, :], triangle[..., 2, :] - triangle[..., 0, :]
    x = F.normalize(side, dim=-1)
    z = F.normalize(torch.linalg.cross(side, other), dim=-1)
    return torch.stack([x, torch.linalg.cross(z, x), z], -1)


def refine_pose(
    world_to_camera: Float[Tensor, "*batch 4 4"],
    points: Float[Tensor, "*batch n 3"],
    targets: Float[Tensor, "*batch n 2"],
    weights: Float[Tensor, "*batch n"] | None = None,
    steps: int = 10,
) -> Float[Tensor, "*batch 4 4"]:
    """The pose that minimises the weighted squared distances of the projected points from targets, from a start near it.

    targets: in calibrated coordinates. A step is kept where it lowers the sum; computed in float64.
    """
    pose, points, targets = world_to_camera.double(), points.double(), targets.double()
    weights = torch.ones_like(targets[..., 0]) if weights is None else weights.double()
    damping = torch.full_like(pose[..., 0, 0], 1e-4)
    cost, normal, pull = _normal_equations(pose, points, targets, weights)
    for _ in range(steps):
        size = torch.diagonal(normal, dim1=-2, dim2=-1)
        step, _ = torch.linalg.solve_ex(normal + torch.diag_embed(damping[..., None] * size + 1e-300), pull)
        turn = rotation_from_vector(-step[..., :3])
        tried = pose_matrix(turn @ pose[..., :3, :3], (turn @ pose[..., :3, 3:])[..., 0] - step[..., 3:])
        new_cost, new_normal, new_pull = _normal_equations(tried, points, targets, weights)
        better = (new_cost <= cost)[..., None, None]  # false for NaN
        pose, normal = torch.where(better, tried, pose), torch.where(better, new_normal, normal)
        pull, cost = torch.where(better[..., 0], new_pull, pull), torch.where(better[..., 0, 0], new_cost, cost)
        damping = torch.where(better[..., 0, 0], damping * 0.1, damping * 10)
    return pose.to(world_to_camera.dtype)


def _normal_equations(pose: Tensor, points: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of weighted squared errors, J^T W J and J^T W r for a turn and a shift in the camera's frame."""
    seen = transformed(pose, points)
    x, y, z = seen.unbind(-1)
    u, v, w = x / z, y / z, 1 / z
    zero = torch.zeros_like(u)
    J = torch.stack(
        [
            torch.stack([-u * v, 1 + u * u, -v, w, zero, -u * w], -1),
            torch.stack([-1 - v * v, u * v, u, zero, w, -v * w], -1),
        ],
        -2,
    )
    residual = torch.stack([u, v], -1) - targets
    used = (weights > 0)[..., None]
    residual = torch.where(used, residual, 0)
    J = torch.where(used[..., None], J, 0).flatten(-3, -2)
    weighted = J * weights.repeat_interleave(2, -1)[..., None]
    cost = (weights * residual.square().sum(-1)).sum(-1)
    return cost, J.transpose(-1, -2) @ weighted, (weighted * residual.flatten(-2)[..., None]).sum(-2)
