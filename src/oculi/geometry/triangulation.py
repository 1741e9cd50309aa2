r"""Triangulation: the 3D point behind its projections in two or more views whose cameras are known.

    w [u v 1]^T = P [X Y Z 1]^T,   P = K [R | t]          u P_3 X = P_1 X,   v P_3 X = P_2 X

Linear start (DLT): two rows per view, each scaled to length 1; X is the right singular vector of the smallest singular
value. Then Gauss-Newton with damping per point (Levenberg-Marquardt) minimises the squared reprojection error in
pixels, a step being kept where it lowers the error.

A point is valid where at least two views see it, their rays are not parallel, and it lies in front of each of them.
Everything is batched over points, and differentiable.

Hartley, Sturm: Triangulation, Computer Vision and Image Understanding 68(2), 1997.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from oculi.geometry.camera import Camera


def projection_matrix(camera: Camera) -> Float[Tensor, "*batch 3 4"]:
    """P = K [R | t]: world to pixels, homogeneous."""
    return camera.K @ camera.world_to_camera[..., :3, :]


def projected(
    P: Float[Tensor, "*#batch views 3 4"], points: Float[Tensor, "*#batch n 3"]
) -> tuple[Float[Tensor, "*batch views n 2"], Float[Tensor, "*batch views n"]]:
    """Pixels of the points in every view, and their third coordinates: depths where the last row of K is (0, 0, 1)."""
    seen = F.pad(points, (0, 1), value=1.0)[..., None, :, :] @ P.transpose(-1, -2)
    return seen[..., :2] / seen[..., 2:], seen[..., 2]


def reprojection_error(
    P: Float[Tensor, "*#batch views 3 4"],
    points: Float[Tensor, "*#batch n 3"],
    pixels: Float[Tensor, "*#batch views n 2"],
) -> Float[Tensor, "*batch views n"]:
    """Distance in pixels between points as projected and as seen."""
    return torch.linalg.norm(projected(P, points)[0] - pixels, dim=-1)


def triangulate(
    P: Float[Tensor, "*batch views 3 4"],
    pixels: Float[Tensor, "*batch views n 2"],
    seen: Bool[Tensor, "*batch views n"] | None = None,
    steps: int = 5,
) -> tuple[Float[Tensor, "*batch n 3"], Bool[Tensor, "*batch n"]]:
    """Points from their pixels in `views` pictures, and which of them are valid (see above); computed in float64.

    seen: which view sees which point (default: all do); pixels of the others are not read and may be NaN.
    steps: of refinement after the linear start. Raises ValueError for unequal shapes, under two views, or NaN.
    """
    if P.shape[-2:] != (3, 4) or pixels.shape[-1] != 2 or P.shape[:-2] != pixels.shape[:-2]:
        shapes = tuple(P.shape), tuple(pixels.shape)
        raise ValueError(
            f"P, pixels: expected ... views x 3 x 4 and ... views x n x 2, got {shapes[0]} and {shapes[1]}"
        )
    if P.shape[-3] < 2:
        raise ValueError(f"P: expected at least 2 views, got {P.shape[-3]}")
    if seen is None:
        seen = torch.ones(pixels.shape[:-1], dtype=torch.bool, device=pixels.device)
    places = torch.where(seen[..., None], pixels, 0).double()
    if not bool(torch.isfinite(places).all() and torch.isfinite(P).all()):
        raise ValueError("P, pixels: expected finite numbers, got NaN or infinity")
    matrices = P.double()
    points, well_posed = _linear(matrices, places, seen)
    if steps:
        points = _refined(matrices, places, seen, points, steps)
    depth = projected(matrices, points)[1]
    front = ((depth > 0) | ~seen).all(-2) & torch.isfinite(points).all(-1)
    return points.to(pixels.dtype), well_posed & front & (seen.sum(-2) >= 2)


def _linear(P: Tensor, pixels: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """DLT of every point: ... x n x 3, and whether its rays meet in one point."""
    rows = pixels[..., None] * P[..., None, 2:, :] - P[..., None, :2, :]  # ... views x n x 2 x 4
    rows = F.normalize(rows, dim=-1) * seen[..., None, None]
    equations = rows.movedim(-4, -3).flatten(-3, -2)
    _, singular, right = torch.linalg.svd(equations, full_matrices=False)
    homogeneous = right[..., 3, :]
    scale = homogeneous[..., 3:]
    points = homogeneous[..., :3] / torch.where(scale.abs() > 1e-14, scale, 1e-14)
    return points, singular[..., 2] > 1e-9 * singular[..., 0]


def _refined(P: Tensor, pixels: Tensor, seen: Tensor, points: Tensor, steps: int) -> Tensor:
    """Levenberg-Marquardt of each point on its own; three unknowns."""
    weights = seen.to(pixels)[..., None]
    identity = torch.eye(3, dtype=pixels.dtype, device=pixels.device)
    damping = torch.full_like(points[..., 0], 1e-4)
    residual, J = _residuals(P, points, pixels, weights)
    for _ in range(steps):
        normal = (J.transpose(-1, -2) @ J).sum(-4)
        pull = (J.transpose(-1, -2) @ residual[..., None]).sum(-4)[..., 0]
        size = torch.diagonal(normal, dim1=-2, dim2=-1).mean(-1)
        damped = normal + (damping * size + 1e-300)[..., None, None] * identity
        tried = points - torch.linalg.solve_ex(damped, pull)[0]
        new_residual, new_J = _residuals(P, tried, pixels, weights)
        before, after = (r.square().sum(-1).sum(-2) for r in (residual, new_residual))
        better = after <= before  # false for NaN
        points = torch.where(better[..., None], tried, points)
        residual = torch.where(better[..., None, :, None], new_residual, residual)
        J = torch.where(better[..., None, :, None, None], new_J, J)
        damping = torch.where(better, damping * 0.1, damping * 10)
    return points


def _residuals(P: Tensor, points: Tensor, pixels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted errors ... views x n x 2 and their derivatives by the point ... views x n x 2 x 3."""
    places, depth = projected(P, points)
    J = (P[..., None, :2, :3] - places[..., None] * P[..., None, 2:, :3]) / depth[..., None, None]
    return (places - pixels) * weights, J * weights[..., None]


def triangulation_angle(
    centers: Float[Tensor, "*#batch 2 3"], points: Float[Tensor, "*#batch n 3"]
) -> Float[Tensor, "*batch n"]:
    """Angle in radians between the rays of two cameras at a point; depth is ill determined where it is small."""
    rays = points[..., None, :, :] - centers[..., :, None, :]
    one, two = rays.unbind(-3)
    crossed = torch.linalg.norm(torch.linalg.cross(one, two), dim=-1)
    return torch.atan2(crossed, (one * two).sum(-1))
