r"""Epipolar geometry of two uncalibrated views: the fundamental matrix F, 3x3, rank 2, up to scale.

    [x' y' 1] F [x y 1]^T = 0,   det F = 0       F x is the line in the second picture on which x must reappear

    8 points   normalise (mean 0, mean distance sqrt 2), take the null vector of the equations, then the nearest matrix
               of rank 2, undo the normalisation; any number of matches from eight, in the least-squares sense
    7 points   the equations leave F = x A + B; det(x A + B) = 0 is a cubic: one or three solutions
    Sampson    d = |x'^T F x| / sqrt((Fx)_1^2 + (Fx)_2^2 + (F^T x')_1^2 + (F^T x')_2^2), pixels: the distance of the
               match (x, x') from the nearest one that fulfils F, to first order

Refinement minimises the weighted sum of d^2 over F = U diag(1, s, 0) V^T by Gauss-Newton, U and V being turned: seven
parameters and rank 2 throughout; with s = 1 held, an essential matrix stays one.

Matches of a plane, or of a camera that only turned, are explained by a homography and fix no F.

Hartley: In defense of the eight-point algorithm, PAMI 19(6), 1997. Hartley and Zisserman (2004), chapter 11.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F_

from oculi.geometry.homography import normalise_points
from oculi.geometry.polynomials import cubic_roots, pencil_determinant
from oculi.geometry.rotations import cross_matrix, rotation_from_vector


def epipolar_lines(F: Float[Tensor, "*batch 3 3"], points: Float[Tensor, "*batch n 2"]) -> Float[Tensor, "*batch n 3"]:
    """(a, b, c) of the lines a x' + b y' + c = 0 in the second picture, a^2 + b^2 = 1; NaN at the epipole."""
    lines = F_.pad(points, (0, 1), value=1.0) @ F.transpose(-1, -2)
    return lines / torch.linalg.norm(lines[..., :2], dim=-1, keepdim=True)


def epipolar_distance(
    F: Float[Tensor, "*batch 3 3"], points: Float[Tensor, "*batch n 2"], targets: Float[Tensor, "*batch n 2"]
) -> Float[Tensor, "*batch n"]:
    """Distance of targets from the lines of their points, in the second picture's pixels."""
    return (epipolar_lines(F, points) * F_.pad(targets, (0, 1), value=1.0)).sum(-1).abs()


def squared_sampson(
    F: Float[Tensor, "*batch 3 3"], points: Float[Tensor, "*#batch n 2"], targets: Float[Tensor, "*#batch n 2"]
) -> Float[Tensor, "*batch n"]:
    """Sampson's distance squared; infinity where both points are epipoles."""
    first = F_.pad(points, (0, 1), value=1.0).transpose(-1, -2)
    second = F_.pad(targets, (0, 1), value=1.0).transpose(-1, -2)
    lines, back = F @ first, F.transpose(-1, -2)[..., :2, :] @ second
    slope = lines[..., :2, :].square().sum(-2) + back.square().sum(-2)
    return ((lines * second).sum(-2).square() / slope).nan_to_num(nan=math.inf)


def sampson_distance(
    F: Float[Tensor, "*batch 3 3"], points: Float[Tensor, "*#batch n 2"], targets: Float[Tensor, "*#batch n 2"]
) -> Float[Tensor, "*batch n"]:
    """Sampson's distance of matches from F, in pixels."""
    return squared_sampson(F, points, targets).sqrt()


def fundamental_matrix(
    points: Float[Tensor, "*batch n 2"], targets: Float[Tensor, "*batch n 2"]
) -> Float[Tensor, "*batch 3 3"]:
    """F of eight or more matches by the normalised 8-point method, of norm 1, batched.

    Raises ValueError for fewer than eight, unequal shapes, NaN, or matches that do not fix F (of a plane, on a line).
    """
    check_matches(points, targets, 8)
    F, well_posed = solve_eight_points(points, targets)
    if not bool(well_posed.all()):
        raise ValueError("points, targets: the matches fix no fundamental matrix (they lie on one plane or line)")
    return F


def check_matches(points: Tensor, targets: Tensor, least: int) -> None:
    """Raise ValueError unless both are ... x n x 2 of one shape, finite, n at least `least`."""
    if points.shape != targets.shape or points.shape[-1] != 2:
        shapes = tuple(points.shape), tuple(targets.shape)
        raise ValueError(f"points, targets: expected equal shapes ending in n x 2, got {shapes[0]} and {shapes[1]}")
    if points.shape[-2] < least:
        raise ValueError(f"points: expected at least {least} matches, got {points.shape[-2]}")
    if not bool(torch.isfinite(points).all() and torch.isfinite(targets).all()):
        raise ValueError("points, targets: expected finite coordinates, got NaN or infinity")


def solve_eight_points(
    points: Float[Tensor, "*batch n 2"],
    targets: Float[Tensor, "*batch n 2"],
    weights: Float[Tensor, "*batch n"] | None = None,
) -> tuple[Float[Tensor, "*batch 3 3"], Bool[Tensor, "*batch"]]:
    """`fundamental_matrix` without the checks, weighted: F and whether the matches fixed it."""
    equations, T, U = _equations(points, targets)
    if weights is not None:
        equations = equations * weights.to(equations).sqrt()[..., None]
    _, singular, right = torch.linalg.svd(equations, full_matrices=points.shape[-2] == 8)
    normalised = right[..., 8, :].unflatten(-1, (3, 3))
    left, values, right = torch.linalg.svd(normalised)
    F = (left[..., :2] * values[..., None, :2]) @ right[..., :2, :]
    F = _unit(U.transpose(-1, -2) @ F @ T)
    well_posed = (singular[..., 7] > 1e-7 * singular[..., 0]) & (values[..., 1] > 1e-9)
    return F.to(points.dtype), well_posed & torch.isfinite(F).all(-1).all(-1)


def solve_seven_points(
    points: Float[Tensor, "*batch 7 2"], targets: Float[Tensor, "*batch 7 2"]
) -> tuple[Float[Tensor, "*batch 3 3 3"], Bool[Tensor, "*batch 3"]]:
    """Up to three F of norm 1 that fulfil seven matches, and which of the three are solutions."""
    equations, T, U = _equations(points, targets)
    basis, triangle = torch.linalg.qr(equations.transpose(-1, -2), mode="complete")
    A, B = (basis[..., i].unflatten(-1, (3, 3)) for i in (7, 8))
    x, real = cubic_roots(pencil_determinant(A, B))
    F = x[..., None, None] * A[..., None, :, :] + B[..., None, :, :]
    F = _unit(U.transpose(-1, -2)[..., None, :, :] @ F @ T[..., None, :, :])
    pivots = torch.diagonal(triangle[..., :7, :], dim1=-2, dim2=-1).abs()
    independent = pivots.amin(-1) > 1e-9 * pivots.amax(-1)
    return F.to(points.dtype), real & independent[..., None] & torch.isfinite(F).all(-1).all(-1)


def refine_fundamental(
    F: Float[Tensor, "*batch 3 3"],
    points: Float[Tensor, "*batch n 2"],
    targets: Float[Tensor, "*batch n 2"],
    weights: Float[Tensor, "*batch n"] | None = None,
    steps: int = 5,
) -> Float[Tensor, "*batch 3 3"]:
    """F of rank 2 and norm 1 that lowers the weighted sum of squared Sampson distances, from a start near it."""
    (first, T), (second, U) = normalise_points(points.double()), normalise_points(targets.double())
    # one scale for both pictures, so that distances stay in proportion
    scale = (T[..., 0, 0] * U[..., 0, 0]).sqrt()
    first, T = _rescaled(first, T, scale)
    second, U = _rescaled(second, U, scale)
    start = torch.linalg.inv(U).transpose(-1, -2) @ F.double() @ torch.linalg.inv(T)
    refined = minimise_sampson(start, first, second, weights, steps)
    return _unit(U.transpose(-1, -2) @ refined @ T).to(F.dtype)


def minimise_sampson(
    F: Float[Tensor, "*batch 3 3"],
    points: Float[Tensor, "*batch n 2"],
    targets: Float[Tensor, "*batch n 2"],
    weights: Float[Tensor, "*batch n"] | None = None,
    steps: int = 5,
    essential: bool = False,
) -> Float[Tensor, "*batch 3 3"]:
    """Gauss-Newton steps over U diag(1, s, 0) V^T in the coordinates given (near 1 for good conditioning).

    essential: the two singular values are and stay equal.
    """
    first, second = F_.pad(points, (0, 1), value=1.0), F_.pad(targets, (0, 1), value=1.0)
    left, values, right = torch.linalg.svd(F)
    right = right.transpose(-1, -2)
    ratio = torch.ones_like(values[..., 0]) if essential else values[..., 1] / values[..., 0]
    free = 6 if essential else 7
    for _ in range(steps):
        F, tangents = _tangents(left, ratio, right)
        residual, gradient = _signed_sampson(F, first, second)
        J = gradient.flatten(-2) @ tangents[..., :free, :, :].flatten(-2).transpose(-1, -2)
        weighted = J if weights is None else J * weights[..., None]
        normal = J.transpose(-1, -2) @ weighted
        damping = 1e-9 * torch.diagonal(normal, dim1=-2, dim2=-1).sum(-1)[..., None, None]
        normal = normal + damping * torch.eye(free, dtype=normal.dtype, device=normal.device)
        step, _ = torch.linalg.solve_ex(normal, (weighted * residual[..., None]).sum(-2))
        step = -step.nan_to_num(0, 0, 0).clamp(-0.3, 0.3)
        left, right = left @ rotation_from_vector(step[..., :3]), right @ rotation_from_vector(step[..., 3:6])
        if not essential:
            ratio = ratio + step[..., 6]
    return _tangents(left, ratio, right)[0]


def _rescaled(points: Tensor, T: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The same normalisation with another scale."""
    factor = scale / T[..., 0, 0]
    rows = torch.stack([factor, factor, torch.ones_like(factor)], -1)
    return points * factor[..., None, None], T * rows[..., None]


def _tangents(left: Tensor, ratio: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """F = U diag(1, s, 0) V^T and dF for turns of U, turns of V and a change of s: ... x 7 x 3 x 3."""
    axes = cross_matrix(torch.eye(3, dtype=left.dtype, device=left.device))
    values = torch.stack([torch.ones_like(ratio), ratio, torch.zeros_like(ratio)], -1)
    middle = torch.diag_embed(values)[..., None, :, :]
    grown = torch.zeros_like(middle)
    grown[..., 1, 1] = 1
    inner = torch.cat([axes @ middle, -(middle @ axes), grown, middle], -3)
    every = left[..., None, :, :] @ inner @ right.transpose(-1, -2)[..., None, :, :]
    return every[..., 7, :, :], every[..., :7, :, :]


def _signed_sampson(F: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """r = x'^T F x / s and dr/dF, per match: ... x n and ... x n x 3 x 3."""
    lines, back = first @ F.transpose(-1, -2), second @ F
    near = lines.new_tensor([1, 1, 0])
    lines, back, product = lines * near, back * near, (lines * second).sum(-1)
    square = (lines.square() + back.square()).sum(-1).clamp_min(1e-30)
    residual = product / square.sqrt()
    outer = second[..., :, None] * first[..., None, :] / square.sqrt()[..., None, None]
    bent = lines[..., :, None] * first[..., None, :] + second[..., :, None] * back[..., None, :]
    return residual, outer - (residual / square)[..., None, None] * bent


def _equations(points: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One row x'^T (x) x^T per match, of normalised points, and both normalisations."""
    first, T = normalise_points(points.double())
    second, U = normalise_points(targets.double())
    first, second = F_.pad(first, (0, 1), value=1.0), F_.pad(second, (0, 1), value=1.0)
    return (second[..., :, None] * first[..., None, :]).flatten(-2), T, U


def _unit(F: Tensor) -> Tensor:
    return F / torch.linalg.matrix_norm(F)[..., None, None]
