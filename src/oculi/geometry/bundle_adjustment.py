r"""Bundle adjustment: cameras and points together, so that what is projected lies where it was seen.

    E = sum_i rho(|r_i|),   r_i = pi(K (R_c X_p + t_c)) - x_i          point p seen by camera c in pixel x_i
    rho(s) = s^2 / 2  for s <= d,   d s - d^2 / 2  beyond               Huber, d = `huber` pixels

Levenberg-Marquardt on R <- exp([w]x) R, t <- t + v, X <- X + dX, and on one K for all cameras where it is refined. With
J = [A B], A of cameras (and K), B of points, every step solves

    [ U    W ] [a]     [A^T r]         U = A^T A + damping, V = B^T B + damping, W = A^T B, weights d / |r| beyond d
    [ W^T  V ] [b] = - [B^T r]

V is block diagonal, 3 x 3 a point, hence the Schur complement leaves a system of the cameras' size:

    (U - W V^-1 W^T) a = -A^T r + W V^-1 B^T r,      b = -V^-1 (B^T r + W^T a)

The damping is lambda times the diagonal (Marquardt), lambda by the ratio of actual to predicted decrease (Nielsen). A step
that raises the cost or brings a point behind a camera that sees it is not taken, so the cost never increases.

Gauge: where nothing is said, the first camera stands still and so does one coordinate of the translation of the camera
farthest from it, which fixes the scale. All in float64, Jacobians in closed form, all observations at once.

Triggs, McLauchlan, Hartley, Fitzgibbon: Bundle Adjustment - A Modern Synthesis, 2000; Nielsen: Damping parameter in
Marquardt's method, IMM-REP-1999-05.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oculi.geometry.camera import Camera
from oculi.geometry.rotations import rotation_from_vector

Refined = Literal["nothing", "focal", "pinhole"]
_INTRINSICS = {"nothing": 0, "focal": 1, "pinhole": 4}
NEGLIGIBLE = 1e-18  # square pixels per observation
PAIR_WORTH = 3000  # multiply-adds of a large matrix product in the time of one pair's 6 x 6 block
DENSE_AT_ONCE = 1 << 19  # numbers of a dense W held at a time
PAIRS_AT_ONCE = 1 << 17  # pairs of observations of one point whose 6 x 6 blocks are held at a time


@dataclass
class Observations:
    """Who saw what where: camera number, point number, and the pixel (x, y)."""

    camera: Int[Tensor, " n"]
    point: Int[Tensor, " n"]
    pixels: Float[Tensor, "n 2"]

    def __len__(self) -> int:
        return len(self.camera)

    def __getitem__(self, chosen: Int[Tensor, " m"] | Bool[Tensor, " n"]) -> Observations:
        return Observations(self.camera[chosen], self.point[chosen], self.pixels[chosen])


@dataclass
class Adjusted:
    """Cameras and points at the optimum, each observation's error in pixels, and the cost before and after every step.

    converged: false where `iterations` ran out first.
    """

    cameras: Camera
    points: Float[Tensor, "p 3"]
    errors: Float[Tensor, " n"]
    costs: list[float]
    converged: bool


@dataclass
class _State:
    K: Tensor
    R: Tensor
    t: Tensor
    points: Tensor


@dataclass
class _Gauge:
    free: Tensor  # of the camera parameters, intrinsics last
    moving: Tensor  # of the points


def reprojection_errors(
    cameras: Camera, points: Float[Tensor, "p 3"], observations: Observations
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Distance in pixels between each observation and the projection of its point, and the point's depth."""
    state = _State(cameras.K.double(), cameras.R.double(), cameras.t.double(), points.double())
    residual, _, seen = _residuals(state, observations)
    return torch.linalg.norm(residual, dim=-1), seen[:, 2]


def bundle_adjustment(
    cameras: Camera,
    points: Float[Tensor, "p 3"],
    observations: Observations,
    refine: Refined = "nothing",
    huber: float = math.inf,
    fixed: Bool[Tensor, " cameras"] | None = None,
    fixed_points: Bool[Tensor, " p"] | None = None,
    iterations: int = 50,
    tolerance: float = 1e-10,
) -> Adjusted:
    """Minimise the reprojection error over poses, points and, with `refine`, the K that all cameras share.

    refine: `focal` scales both focal lengths by one number, `pinhole` frees fx, fy, cx, cy. fixed: cameras that stand
    still (one alone leaves the scale to be fixed as above). tolerance: relative decrease of the cost at which it stops.
    Raises ValueError for shapes or indices that do not fit, NaN, points behind a camera that sees them, or fewer than
    two cameras.
    """
    _check(cameras, points, observations, refine, huber, fixed, fixed_points)
    order = observations.point.argsort(stable=True)
    seen = Observations(observations.camera[order], observations.point[order], observations.pixels[order].double())
    state = _State(cameras.K.double(), cameras.R.double(), cameras.t.double(), points.double())
    cost, residual, local = _cost(state, seen, huber)
    if not math.isfinite(cost):
        behind = int((local[:, 2] <= 0).sum())
        raise ValueError(f"points: expected each in front of the cameras that see it, got {behind} observations behind")
    gauge = _gauge(state, seen, refine, fixed, fixed_points)
    pairs = _pairs(seen.point, len(points))
    costs, damping, growth, converged = [cost], 1e-4, 2.0, False
    least = NEGLIGIBLE * len(seen)
    system = _linearised(state, seen, residual, local, huber, refine, gauge)
    for _ in range(iterations):
        step = _step(system, seen, pairs, gauge, damping)
        if step is not None:
            tried = _moved(state, *step, refine)
            new_cost, new_residual, new_local = _cost(tried, seen, huber)
            expected = _predicted(system, *step, damping)
        if step is None or not new_cost < cost:
            converged = step is not None and expected <= tolerance * cost + least
            damping, growth = damping * growth, growth * 2
            if converged or damping > 1e16:
                break
            continue
        gained = cost - new_cost
        damping = max(damping * max(1 / 3, 1 - (2 * gained / max(expected, 1e-300) - 1) ** 3), 1e-12)
        growth, converged = 2.0, gained <= tolerance * cost + least
        state, cost, residual, local = tried, new_cost, new_residual, new_local
        costs.append(cost)
        if converged:
            break
        system = _linearised(state, seen, residual, local, huber, refine, gauge)
    errors = torch.empty(len(seen), dtype=torch.float64, device=points.device)
    errors[order] = torch.linalg.norm(residual, dim=-1)
    return Adjusted(_as_camera(cameras, state), state.points.to(points.dtype), errors, costs, converged)


def _check(
    cameras: Camera,
    points: Tensor,
    observations: Observations,
    refine: str,
    huber: float,
    fixed: Tensor | None,
    fixed_points: Tensor | None,
) -> None:
    if cameras.K.ndim != 3 or len(cameras) < 2:
        raise ValueError(f"cameras: expected a batch of at least two, got K of shape {tuple(cameras.K.shape)}")
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ValueError(f"points: expected p x 3 with p >= 1, got {tuple(points.shape)}")
    if not bool(torch.isfinite(points).all() and torch.isfinite(cameras.world_to_camera).all()):
        raise ValueError("points, cameras: expected finite numbers, got NaN or infinity")
    n = len(observations)
    shapes = tuple(observations.point.shape), tuple(observations.pixels.shape)
    if n == 0 or shapes != ((n,), (n, 2)):
        raise ValueError(f"observations: expected n >= 1 cameras, n points, n x 2 pixels, got {n}, {shapes}")
    if not bool(torch.isfinite(observations.pixels).all()):
        raise ValueError("observations: expected finite pixels, got NaN or infinity")
    for name, index, count in (
        ("camera", observations.camera, len(cameras)),
        ("point", observations.point, len(points)),
    ):
        if int(index.min()) < 0 or int(index.max()) >= count:
            raise ValueError(
                f"observations.{name}: expected 0 to {count - 1}, got {int(index.min())} to {int(index.max())}"
            )
    if refine not in _INTRINSICS:
        raise ValueError(f"refine: expected {', '.join(_INTRINSICS)}, got {refine!r}")
    if refine != "nothing" and not torch.allclose(cameras.K, cameras.K[:1].expand_as(cameras.K)):
        raise ValueError("refine: one K is refined for all cameras, but theirs differ")
    if not huber > 0:
        raise ValueError(f"huber: expected a positive number of pixels, got {huber}")
    for name, mask, count in (("fixed", fixed, len(cameras)), ("fixed_points", fixed_points, len(points))):
        if mask is not None and (mask.shape != (count,) or mask.dtype != torch.bool):
            raise ValueError(f"{name}: expected {count} booleans, got {mask.dtype} of shape {tuple(mask.shape)}")


def _as_camera(like: Camera, state: _State) -> Camera:
    matrix = torch.zeros_like(like.world_to_camera)
    matrix[:, :3, :3], matrix[:, :3, 3], matrix[:, 3, 3] = state.R.to(matrix), state.t.to(matrix), 1.0
    return replace(like, K=state.K.to(like.K), world_to_camera=matrix)


def _residuals(state: _State, seen: Observations) -> tuple[Tensor, Tensor, Tensor]:
    """r (n x 2), R X and R X + t (n x 3 each)."""
    turned = (state.R[seen.camera] @ state.points[seen.point][..., None])[..., 0]
    local = turned + state.t[seen.camera]
    K = state.K[seen.camera]
    flat = local[:, :2] / local[:, 2:]
    pixel = (K[:, :2, :2] @ flat[..., None])[..., 0] + K[:, :2, 2]
    return pixel - seen.pixels, turned, local


def _cost(state: _State, seen: Observations, huber: float) -> tuple[float, Tensor, Tensor]:
    """E (infinite where a point lies behind a camera that sees it), r, and the points in their cameras."""
    residual, _, local = _residuals(state, seen)
    if bool((local[:, 2] <= 0).any()):
        return math.inf, residual, local
    length = torch.linalg.norm(residual, dim=-1)
    inner = length.clamp_max(huber)
    cost = (inner * (length - inner / 2)).sum()
    return float(cost.nan_to_num(nan=math.inf, posinf=math.inf)), residual, local


def _gauge(state: _State, seen: Observations, refine: str, fixed: Tensor | None, fixed_points: Tensor | None) -> _Gauge:
    """Which parameters are free."""
    count = len(state.R)
    still = torch.zeros(count, dtype=torch.bool, device=state.R.device) if fixed is None else fixed.clone()
    if not bool(still.any()):
        still[0] = True
    watched = torch.zeros_like(still)
    watched[seen.camera] = True
    free = (~still & watched)[:, None].repeat(1, 6)
    if int(still.sum()) == 1 and (fixed_points is None or not bool(fixed_points.any())):
        centre = -(state.R.transpose(1, 2) @ state.t[..., None])[..., 0]
        way = centre - centre[still]
        far = int((way.norm(dim=1) * watched).argmax())
        if bool(free[far, 3]):
            free[far, 3 + int((state.R[far] @ way[far]).abs().argmax())] = False
    rest = free.new_ones(_INTRINSICS[refine])
    moving = torch.zeros(len(state.points), dtype=torch.bool, device=free.device)
    moving[seen.point] = True
    return _Gauge(torch.cat([free.flatten(), rest]), moving if fixed_points is None else moving & ~fixed_points)


def _pairs(point: Int[Tensor, " n"], count: int) -> tuple[Tensor, Tensor]:
    """All (i, j), i <= j, of observations of one point; they come sorted by point."""
    size = torch.bincount(point, minlength=count)
    last = size.cumsum(0)[point]  # one past the point's last observation
    here = torch.arange(len(point), device=point.device)
    partners = last - here
    first = here.repeat_interleave(partners)
    begin = partners.cumsum(0) - partners
    return first, first + torch.arange(len(first), device=point.device) - begin[first]


@dataclass
class _Linear:
    """Normal equations without damping: blocks U (cameras), u (intrinsics), V (points), W per observation, gradients."""

    k: int  # intrinsics
    W: Tensor  # n x 6 x 3
    Z: Tensor  # p x k x 3: intrinsics with points
    U: Tensor  # all cameras' parameters, square, without the points' part
    V: Tensor  # p x 3 x 3
    g: Tensor  # gradient by cameras and intrinsics
    h: Tensor  # p x 3


def _linearised(
    state: _State, seen: Observations, residual: Tensor, local: Tensor, huber: float, refine: str, gauge: _Gauge
) -> _Linear:
    count, points, k = len(state.R), len(state.points), _INTRINSICS[refine]
    A, B, Q = _jacobians(state, seen, local, refine)
    A = A * gauge.free[: 6 * count].view(count, 1, 6)[seen.camera]
    B = B * gauge.moving[seen.point, None, None]
    J = torch.cat([A, Q, B, residual[..., None]], -1)
    if math.isfinite(huber):
        J *= (huber / torch.linalg.norm(residual, dim=-1).clamp_min(1e-300)).clamp_max(1.0).sqrt()[:, None, None]
    products = J.transpose(1, 2) @ J
    pose, rest, place = slice(6), slice(6, 6 + k), slice(6 + k, 9 + k)

    def by_camera(part: Tensor) -> Tensor:
        return part.new_zeros(count, *part.shape[1:]).index_add_(0, seen.camera, part)

    def by_point(part: Tensor) -> Tensor:
        return part.new_zeros(points, *part.shape[1:]).index_add_(0, seen.point, part)

    U = J.new_zeros(6 * count + k, 6 * count + k)
    U[: 6 * count, : 6 * count] = torch.block_diag(*by_camera(products[:, pose, pose]))
    across = by_camera(products[:, pose, rest]).reshape(6 * count, k)
    U[: 6 * count, 6 * count :], U[6 * count :, : 6 * count] = across, across.T
    U[6 * count :, 6 * count :] = products[:, rest, rest].sum(0)
    return _Linear(
        k,
        products[:, pose, place].contiguous(),
        by_point(products[:, rest, place]),
        U,
        by_point(products[:, place, place]),
        torch.cat([by_camera(products[:, pose, -1]).flatten(), products[:, rest, -1].sum(0)]),
        by_point(products[:, place, -1]),
    )


def _jacobians(state: _State, seen: Observations, local: Tensor, refine: str) -> tuple[Tensor, Tensor, Tensor]:
    """dr/d(w, v), dr/dX and dr/d(intrinsics), n x 2 x (6, 3, k)."""
    K, R = state.K[seen.camera], state.R[seen.camera]
    x, z = local[:, 0], local[:, 2]
    flat = local[:, :2] / z[:, None]
    D = torch.cat([K[:, :2, :2], -(K[:, :2, :2] @ flat[..., None])], -1) / z[:, None, None]
    turned = local - state.t[seen.camera]
    # D (w x Y) = w . (Y x D's rows)
    spin = torch.linalg.cross(turned[:, None].expand_as(D), D)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    if refine == "focal":
        Q = K[:, :2, :2] @ flat[..., None]
    elif refine == "pinhole":
        Q = torch.stack([flat[:, 0], zero, one, zero, zero, flat[:, 1], zero, one], -1).unflatten(-1, (2, 4))
    else:
        Q = x.new_zeros(len(x), 2, 0)
    return torch.cat([spin, D], -1), D @ R, Q


def _step(
    system: _Linear, seen: Observations, pairs: tuple[Tensor, Tensor], gauge: _Gauge, damping: float
) -> tuple[Tensor, Tensor] | None:
    """The damped Gauss-Newton step of cameras (with intrinsics) and points; None where it is not defined."""
    inverse = _inverse(system.V + torch.diag_embed(_scale(system.V.diagonal(dim1=1, dim2=2)) * damping))
    carried = system.W @ inverse[seen.point]
    S = system.U + torch.diag(_scale(system.U.diagonal()) * damping)
    _subtract_points(S, carried, system, seen, pairs, inverse)
    towards = (inverse @ system.h[..., None])[..., 0]
    right = -system.g
    cameras = len(S) - system.k
    right[:cameras] += (
        system.g.new_zeros(cameras // 6, 6).index_add_(
            0, seen.camera, (carried @ system.h[seen.point][..., None])[..., 0]
        )
    ).flatten()
    right[cameras:] += (system.Z @ towards[..., None])[..., 0].sum(0)
    free = gauge.free.nonzero()[:, 0]
    factor, failed = torch.linalg.cholesky_ex(S[free[:, None], free])
    if bool(failed):
        return None
    a = torch.zeros_like(right)
    a[free] = torch.cholesky_solve(right[free, None], factor)[:, 0]
    pull = system.h + (system.Z.transpose(1, 2) @ a[cameras:, None])[..., 0]
    own = (system.W.transpose(1, 2) @ a[:cameras].view(-1, 6)[seen.camera][..., None])[..., 0]
    b = -(inverse @ pull.index_add(0, seen.point, own)[..., None])[..., 0]
    return (a, b) if bool(torch.isfinite(a).all() and torch.isfinite(b).all()) else None


def _subtract_points(
    S: Tensor, carried: Tensor, system: _Linear, seen: Observations, pairs: tuple[Tensor, Tensor], inverse: Tensor
) -> None:
    """S -= W V^-1 W^T, block by block of the pairs of cameras that see a point together."""
    k = system.k
    cameras = (len(S) - k) // 6
    if 216 * cameras**2 * len(inverse) < PAIR_WORTH * len(pairs[0]):
        S[: 6 * cameras, : 6 * cameras] -= _through_all(carried, system.W, seen, cameras, len(inverse))
    else:
        half = _through_pairs(carried, system.W, seen, cameras, pairs)
        S[: 6 * cameras, : 6 * cameras] -= half + half.T
    if k:
        through = S.new_zeros(cameras, 6, k)
        through.index_add_(0, seen.camera, carried @ system.Z[seen.point].transpose(1, 2))
        across = through.reshape(6 * cameras, k)
        S[: 6 * cameras, 6 * cameras :] -= across
        S[6 * cameras :, : 6 * cameras] -= across.T
        S[6 * cameras :, 6 * cameras :] -= (system.Z @ inverse @ system.Z.transpose(1, 2)).sum(0)


def _through_pairs(
    carried: Tensor, W: Tensor, seen: Observations, cameras: int, pairs: tuple[Tensor, Tensor]
) -> Tensor:
    """Half of W V^-1 W^T, the transpose being the other, from each point's pairs of observations."""
    blocks = W.new_zeros(cameras * cameras, 6, 6)
    for i, j in zip(pairs[0].split(PAIRS_AT_ONCE), pairs[1].split(PAIRS_AT_ONCE)):
        product = carried[i] @ W[j].transpose(1, 2)
        product *= torch.where(i == j, 0.5, 1.0).to(product)[:, None, None]
        blocks.index_add_(0, seen.camera[i] * cameras + seen.camera[j], product)
    return blocks.view(cameras, cameras, 6, 6).permute(0, 2, 1, 3).reshape(6 * cameras, 6 * cameras)


def _through_all(carried: Tensor, W: Tensor, seen: Observations, cameras: int, points: int) -> Tensor:
    """W V^-1 W^T as one product of matrices, with zeros where a camera does not see a point; some points at a time."""
    total = W.new_zeros(6 * cameras, 6 * cameras)
    chunk = min(points, max(1, DENSE_AT_ONCE // (18 * cameras)))
    ends = torch.searchsorted(seen.point, torch.arange(0, points + chunk, chunk, device=W.device)).tolist()
    for step, (begin, end) in enumerate(pairwise(ends)):
        row = seen.camera[begin:end] * chunk + seen.point[begin:end] - step * chunk
        left, right = (
            part.new_zeros(cameras * chunk, 18).index_copy_(0, row, part[begin:end].flatten(1)) for part in (carried, W)
        )
        left, right = (m.view(cameras, chunk, 6, 3).transpose(1, 2).reshape(6 * cameras, -1) for m in (left, right))
        total += left @ right.T
    return total


def _scale(diagonal: Tensor) -> Tensor:
    """The diagonal to be damped; what nothing pulls at gets a little all the same."""
    return diagonal.clamp_min(1e-6)


def _inverse(V: Float[Tensor, "p 3 3"]) -> Float[Tensor, "p 3 3"]:
    """Of symmetric 3 x 3 matrices, by cofactors."""
    a, b, c = V.unbind(1)
    cofactors = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], 1)
    return cofactors / (a * cofactors[:, 0]).sum(-1)[:, None, None]


def _predicted(system: _Linear, a: Tensor, b: Tensor, damping: float) -> float:
    """Decrease of the linearised cost: (damping d^T D d - d^T gradient) / 2."""
    spread = _scale(system.V.diagonal(dim1=1, dim2=2))
    damped = damping * ((_scale(system.U.diagonal()) * a.square()).sum() + (spread * b.square()).sum())
    return float(damped - (a * system.g).sum() - (b * system.h).sum()) / 2


def _moved(state: _State, a: Tensor, b: Tensor, refine: str) -> _State:
    cameras = len(state.R)
    pose, rest = a[: 6 * cameras].view(cameras, 6), a[6 * cameras :]
    K = state.K
    if len(rest):
        K = K.clone()
        if refine == "focal":
            K[:, :2, :2] = K[:, :2, :2] * (1 + rest)
        else:
            K[:, 0, 0], K[:, 1, 1] = K[:, 0, 0] + rest[0], K[:, 1, 1] + rest[1]
            K[:, :2, 2] = K[:, :2, 2] + rest[2:]
    return _State(K, rotation_from_vector(pose[:, :3]) @ state.R, state.t + pose[:, 3:], state.points + b)
