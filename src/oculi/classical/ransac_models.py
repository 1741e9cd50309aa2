r"""What RANSAC can fit: each model is a minimal solver, an error, a refit, and what makes it ambiguous.

    line          2 points         |a x + b y + c|, a^2 + b^2 = 1                  total least squares
    regression    2 points (x, y)  |y - a x - b|                                   least squares
    homography    4 matches        distance in the second picture                  Gauss-Newton on that distance
    fundamental   7 matches        Sampson distance                                Gauss-Newton, rank 2 throughout
    essential     5 matches        Sampson distance, in pixels where K is given    Gauss-Newton over turns of U and V
    pose          3 points         reprojection error, in pixels where K is given  Levenberg-Marquardt

A consensus can be large and yet fix no model: matches of one plane have many F and two E, those of a camera that only
turned many E. `settled` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from oculi.geometry.epipolar import refine_fundamental, solve_seven_points, squared_sampson
from oculi.geometry.essential import (
    calibrated,
    essential_of_pose,
    fundamental_of_essential,
    refine_essential,
    solve_five_points,
)
from oculi.geometry.homography import (
    decompose_homography,
    refine_homography,
    solve_four_points,
    squared_transfer,
    transfer_error,
)
from oculi.geometry.pnp import refine_pose, solve_three_points

PLANE_SHARE = 0.95  # of the inliers on one plane (or explained by a turn): the rest may be chance


@dataclass(frozen=True)
class Model:
    """A model that RANSAC can fit. Data are one or two tensors, a row per datum; all functions take them at the end.

    solve: a batch of minimal samples to a batch of lists of solutions, and which of these count.
    squared_error: of every datum under every one of m models. refit: of one model to the data of its inliers.
    descend: where that is faster, in place of refits: from a model, a threshold and a number of them to a better model.
    chance: share of unrelated data that lie within the threshold of any model. settled: the model that its inliers fix,
    the given one nearly always; raises ValueError where they fix none.
    """

    size: int
    columns: tuple[int, ...]
    solve: Callable[..., tuple[Float[Tensor, "b s *model"], Bool[Tensor, "b s"]]]
    squared_error: Callable[..., Float[Tensor, "m n"]]
    refit: Callable[..., Tensor]
    chance: Callable[..., float]
    settled: Callable[..., Tensor]
    descend: Callable[..., Tensor] | None = None


def _extent(data: Tensor) -> list[float]:
    low, high = data.aminmax(dim=0)
    return (high - low).tolist()


def _near_point(threshold: float, *data: Tensor) -> float:
    width, height = _extent(data[-1])
    return min(1.0, math.pi * threshold**2 / max(width * height, 1e-300))


def _near_line(threshold: float, *data: Tensor) -> float:
    width, height = _extent(data[-1])
    return min(1.0, 2 * threshold * math.hypot(width, height) / max(width * height, 1e-300))


def _near_value(threshold: float, points: Tensor) -> float:
    return min(1.0, 2 * threshold / max(_extent(points)[1], 1e-300))


def _as_given(threshold: float, model: Tensor, *data: Tensor) -> Tensor:
    return model


def _ambiguous(why: str) -> ValueError:
    return ValueError(f"points: the model is ambiguous; {why}")


# lines ---------------------------------------------------------------------------------------------------------------


def fit_line(points: Float[Tensor, "*batch n 2"]) -> tuple[Float[Tensor, "*batch 3"], Bool[Tensor, "*batch"]]:
    """(a, b, c) with a x + b y + c = 0, a^2 + b^2 = 1, nearest to the points; and whether they fix it."""
    mean = points.mean(-2)
    centred = points - mean[..., None, :]
    spread, axes = torch.linalg.eigh(centred.transpose(-1, -2) @ centred)
    normal = axes[..., 0]
    line = torch.cat([normal, -(normal * mean).sum(-1, keepdim=True)], -1)
    return line, spread[..., 1] > 1e-12


def line_error(line: Float[Tensor, "*batch 3"], points: Float[Tensor, "*#batch n 2"]) -> Float[Tensor, "*batch n"]:
    """Distance of points to the line."""
    return ((points * line[..., None, :2]).sum(-1) + line[..., 2:]).abs()


def _solve_line(points: Tensor) -> tuple[Tensor, Tensor]:
    line, well_posed = fit_line(points)
    return line[:, None], well_posed[:, None]


def line() -> Model:
    """(a, b, c) of a x + b y + c = 0 through points n x 2."""
    return Model(
        size=2,
        columns=(2,),
        solve=_solve_line,
        squared_error=lambda models, points: line_error(models, points).square(),
        refit=lambda model, points: fit_line(points)[0],
        chance=_near_line,
        settled=_as_given,
    )


def fit_regression(points: Float[Tensor, "*batch n 2"]) -> tuple[Float[Tensor, "*batch 2"], Bool[Tensor, "*batch"]]:
    """(slope, intercept) of y = slope x + intercept with the least sum of squares, and whether x varies."""
    mean = points.mean(-2)
    x, y = (points - mean[..., None, :]).unbind(-1)
    spread = x.square().sum(-1)
    slope = (x * y).sum(-1) / spread
    return torch.stack([slope, mean[..., 1] - slope * mean[..., 0]], -1), spread > 1e-24


def _solve_regression(points: Tensor) -> tuple[Tensor, Tensor]:
    model, well_posed = fit_regression(points)
    return model[:, None], well_posed[:, None]


def regression() -> Model:
    """(slope, intercept) of y = slope x + intercept through points (x, y), n x 2; errors along y."""
    return Model(
        size=2,
        columns=(2,),
        solve=_solve_regression,
        squared_error=lambda m, points: (points[..., 1] - m[..., :1] * points[..., 0] - m[..., 1:]).square(),
        refit=lambda model, points: fit_regression(points)[0],
        chance=_near_value,
        settled=_as_given,
    )


# two views -----------------------------------------------------------------------------------------------------------


def _solve_homography(points: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    H, well_posed = solve_four_points(points, targets)
    return H[:, None], well_posed[:, None]


def homography() -> Model:
    """H, 3 x 3, with targets = H(points), both n x 2."""
    return Model(
        size=4,
        columns=(2, 2),
        solve=_solve_homography,
        squared_error=squared_transfer,
        refit=refine_homography,
        chance=_near_point,
        settled=_off_a_line,
        descend=lambda H, threshold, steps, a, b: refine_homography(H, a, b, steps, threshold, enough=0.03),
    )


def _off_a_line(threshold: float, H: Tensor, points: Tensor, targets: Tensor) -> Tensor:
    """H, unless nearly all inliers lie on one line, which leaves it to the few others, be they chance."""
    count, centred = len(points), points - points.mean(0)
    (xx, xy), (_, yy) = (centred.T @ centred).tolist()
    if count < 5 or (count >= 30 and xx * yy - xy * xy > 0.1 * (xx + yy) ** 2):
        return H  # too few to tell, or spread in both directions
    pairs = torch.randint(count, (64, 2), generator=torch.Generator().manual_seed(0))
    lines, well_posed = fit_line(points[pairs])
    near = (line_error(lines, points) <= threshold).sum(1)[well_posed]
    most = int(near.max()) if len(near) else count
    off = count - most
    if most >= 5 and off <= max(2, 0.05 * count):
        raise _ambiguous(f"all inliers but {off} lie on one line")
    return H


def fundamental() -> Model:
    """F, 3 x 3 of rank 2, with targets^T F points = 0 in homogeneous pixels, both n x 2."""
    return Model(
        size=7,
        columns=(2, 2),
        solve=solve_seven_points,
        squared_error=squared_sampson,
        refit=lambda F, points, targets: refine_fundamental(F, points, targets, steps=2),
        chance=_near_line,
        settled=_off_a_plane,
    )


def _off_a_plane(threshold: float, F: Tensor, points: Tensor, targets: Tensor) -> Tensor:
    """F, unless one homography explains nearly all inliers."""
    H, near = _plane(threshold, points, targets)
    if H is None:
        raise _ambiguous("no four inliers fix a homography: they lie on one line")
    share = float(near.double().mean())
    if share >= PLANE_SHARE:
        raise _ambiguous(f"one homography explains {share:.0%} of the inliers (a plane, or a camera that did not move)")
    return F


def _plane(threshold: float, points: Tensor, targets: Tensor) -> tuple[Tensor | None, Bool[Tensor, " n"]]:
    """The homography that explains most inliers, and which: found from a few samples, for most of them would do."""
    index = torch.rand(32, len(points), generator=torch.Generator().manual_seed(0)).topk(4, 1).indices.to(points.device)
    H, well_posed = solve_four_points(points[index], targets[index])
    if not bool(well_posed.any()):
        return None, torch.zeros_like(points[:, 0], dtype=torch.bool)
    error = squared_transfer(H[well_posed], points, targets).nan_to_num(math.inf)
    best = H[well_posed][error.clamp_max((3 * threshold) ** 2).sum(1).argmin()]
    for _ in range(2):
        near = transfer_error(best, points, targets) <= 3 * threshold
        if int(near.sum()) >= 4:
            best = refine_homography(best, points[near], targets[near], steps=2)
    return best, transfer_error(best, points, targets) <= 2 * threshold


def essential(K: Float[Tensor, "3 3"] | None = None, other_K: Float[Tensor, "3 3"] | None = None) -> Model:
    """E, 3 x 3 with singular values (1, 1, 0), of matches in pixels of cameras K and `other_K` (default: K's).

    Without K the matches are in calibrated coordinates (X / Z, Y / Z), and so is the threshold.
    """
    first = _intrinsics(K)
    second = first if other_K is None else _intrinsics(other_K)

    def solve(points: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return solve_five_points(calibrated(first, points), calibrated(second, targets))

    def squared_error(E: Tensor, points: Tensor, targets: Tensor) -> Tensor:
        return squared_sampson(fundamental_of_essential(E, first, second), points, targets)

    def refit(E: Tensor, points: Tensor, targets: Tensor) -> Tensor:
        return refine_essential(E, calibrated(first, points), calibrated(second, targets), steps=2)

    def settled(threshold: float, E: Tensor, points: Tensor, targets: Tensor) -> Tensor:
        one, two = calibrated(first, points), calibrated(second, targets)
        rays = [functional.normalize(functional.pad(x, (0, 1), value=1.0), dim=-1) for x in (one, two)]
        near = torch.ones_like(one[:, 0], dtype=torch.bool)
        for _ in range(3):
            H = second @ _turn(rays[0][near], rays[1][near]) @ torch.linalg.inv(first)
            error = transfer_error(H, points, targets)
            near = error <= torch.maximum(error.median(), error.new_tensor(2 * threshold))
        share = float((error <= 2 * threshold).double().mean())
        if share >= PLANE_SHARE:
            raise _ambiguous(
                f"a turn alone explains {share:.0%} of the inliers: without a baseline the direction of t is free"
            )
        if len(points) <= 5:
            return E
        plane, near = _plane(threshold, points, targets)
        share = float(near.double().mean())
        if plane is None or share < PLANE_SHARE:
            return E
        # a plane has two E; what was seen lies in front of the cameras, which may leave one
        R, t, normal = decompose_homography(plane, first, second)
        seen = ((rays[0] @ normal.T) > 0).double().mean(0) > 0.99
        if int(seen.sum()) == 2 and float(torch.linalg.matrix_norm(R[seen][0] - R[seen][1])) > 1e-6:
            raise _ambiguous(
                f"one plane holds {share:.0%} of the inliers, and two poses see all of it: decompose_homography gives both"
            )
        if not bool(seen.any()):
            return E
        # refitted to the plane's points alone: the other E agrees with matches that this one need not
        return refit(essential_of_pose(R[seen][0], t[seen][0]), points[near], targets[near])

    return Model(5, (2, 2), solve, squared_error, refit, _near_line, settled)


def _turn(one: Float[Tensor, "n 3"], two: Float[Tensor, "n 3"]) -> Float[Tensor, "3 3"]:
    """The rotation that brings the rays `one` nearest to `two`."""
    U, _, right = torch.linalg.svd(two.T @ one)
    sign = torch.stack([torch.ones_like(U[0, 0]), torch.ones_like(U[0, 0]), torch.linalg.det(U @ right)])
    return (U * sign) @ right


def _intrinsics(K: Tensor | None) -> Float[Tensor, "3 3"]:
    if K is None:
        return torch.eye(3, dtype=torch.float64)
    if K.shape != (3, 3) or not bool(torch.isfinite(K).all()) or float(torch.linalg.det(K.double()).abs()) < 1e-12:
        raise ValueError(f"K: expected a 3 x 3 matrix that can be inverted, got {K.tolist()}")
    return K.double()


# a view and the world ------------------------------------------------------------------------------------------------


def pose(K: Float[Tensor, "3 3"] | None = None) -> Model:
    """`world_to_camera`, 4 x 4, that sees points (n x 3, in the world) at targets (n x 2, pixels of a camera K).

    Without K the targets are in calibrated coordinates (X / Z, Y / Z), and so is the threshold.
    """
    intrinsics = _intrinsics(K)

    def solve(points: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return solve_three_points(points, calibrated(intrinsics, targets))

    def squared_error(poses: Tensor, points: Tensor, targets: Tensor) -> Tensor:
        P = intrinsics @ poses[..., :3, :]
        seen = P[..., :3] @ points.T + P[..., 3:]
        error = (seen[..., :2, :] / seen[..., 2:, :] - targets.T).square_().sum(-2)
        return torch.where(seen[..., 2, :] > 0, error, math.inf)

    def refit(model: Tensor, points: Tensor, targets: Tensor) -> Tensor:
        return refine_pose(model, points, calibrated(intrinsics, targets), steps=3)

    def settled(threshold: float, model: Tensor, points: Tensor, targets: Tensor) -> Tensor:
        spread = torch.linalg.eigvalsh((points - points.mean(0)).T @ (points - points.mean(0)))
        if float(spread[1]) <= 1e-12 * float(spread[2]):
            raise _ambiguous("the inliers' points lie on one line")
        return model

    return Model(3, (3, 2), solve, squared_error, refit, _near_point, settled)


MODELS: dict[str, Callable[[], Model]] = {
    "homography": homography,
    "line": line,
    "regression": regression,
    "fundamental": fundamental,
    "essential": essential,
    "pose": pose,
}
