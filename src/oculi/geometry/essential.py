r"""The essential matrix E = [t]_x R of two calibrated views, from five matches, and the relative pose in it.

    x'^T E x = 0        x, x' = K^{-1} [u v 1]^T        singular values (1, 1, 0)        t up to scale, ||t|| = 1

Five matches leave E = x X + y Y + z Z + W. E is essential where

    det E = 0        2 E E^T E - tr(E E^T) E = 0

ten cubics in x, y, z. Eliminating their ten monomials of degree three leaves a 10 x 10 matrix that multiplies the ten
lower ones by x: its real eigenvectors hold up to ten solutions.

    E = U diag(1, 1, 0) V^T     R = U W V^T or U W^T V^T,  t = +-u_3      W turns by 90 degrees about z

Of these four poses one has the matches in front of both cameras. The second camera's `world_to_camera` is [R | t]
where the first's is the identity. A camera that only turned has no E: t is then free. Matches of one
plane have two, and the poses of both may have all points in front (`oculi.geometry.homography.decompose_homography`).

Nister: An efficient solution to the five-point relative pose problem, PAMI 26(6), 2004; Stewenius, Engels, Nister:
Recent developments on direct relative orientation, ISPRS 60(4), 2006.
"""

from __future__ import annotations

import itertools
from functools import cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F_

from oculi.geometry.epipolar import check_matches, minimise_sampson
from oculi.geometry.rotations import cross_matrix


def calibrated(K: Float[Tensor, "*#batch 3 3"], pixels: Float[Tensor, "*#batch n 2"]) -> Float[Tensor, "*batch n 2"]:
    """Pixels as (X / Z, Y / Z) in the camera's frame: K^{-1} [u v 1]^T."""
    return (F_.pad(pixels, (0, 1), value=1.0) @ torch.linalg.inv(K).transpose(-1, -2))[..., :2]


def essential_of_pose(R: Float[Tensor, "*batch 3 3"], t: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """E = [t]_x R with t scaled to length 1."""
    return cross_matrix(t / torch.linalg.norm(t, dim=-1, keepdim=True)) @ R


def fundamental_of_essential(
    E: Float[Tensor, "*batch 3 3"], K: Float[Tensor, "*#batch 3 3"], other_K: Float[Tensor, "*#batch 3 3"]
) -> Float[Tensor, "*batch 3 3"]:
    """F = K'^{-T} E K^{-1} of cameras with intrinsics K and K', scaled to norm 1."""
    F = torch.linalg.inv(other_K).transpose(-1, -2) @ E @ torch.linalg.inv(K)
    return F / torch.linalg.matrix_norm(F)[..., None, None]


def essential_of_fundamental(
    F: Float[Tensor, "*batch 3 3"], K: Float[Tensor, "*#batch 3 3"], other_K: Float[Tensor, "*#batch 3 3"]
) -> Float[Tensor, "*batch 3 3"]:
    """The essential matrix nearest to K'^T F K."""
    return nearest_essential(other_K.transpose(-1, -2) @ F @ K)


def nearest_essential(E: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """U diag(1, 1, 0) V^T."""
    U, _, right = torch.linalg.svd(E)
    return U[..., :2] @ right[..., :2, :]


def solve_five_points(
    points: Float[Tensor, "*batch 5 2"], targets: Float[Tensor, "*batch 5 2"]
) -> tuple[Float[Tensor, "*batch 10 3 3"], Bool[Tensor, "*batch 10"]]:
    """Up to ten E that fulfil five matches in calibrated coordinates, and which of the ten are real solutions."""
    first = F_.pad(points.double(), (0, 1), value=1.0)
    second = F_.pad(targets.double(), (0, 1), value=1.0)
    equations = (second[..., :, None] * first[..., None, :]).flatten(-2)
    every, triangle = torch.linalg.qr(equations.transpose(-1, -2), mode="complete")
    basis = every[..., 5:].transpose(-1, -2).unflatten(-1, (3, 3))  # X, Y, Z, W
    pivots = torch.diagonal(triangle[..., :5, :], dim1=-2, dim2=-1).abs()
    constraints = _constraints(basis)
    lower, singular = torch.linalg.solve_ex(constraints[..., :10], constraints[..., 10:])
    usable = (pivots.amin(-1) > 1e-9 * pivots.amax(-1)) & (singular == 0)
    usable = usable & (lower.abs().amax((-1, -2)) < 1e12)  # false for NaN
    lower = torch.where(usable[..., None, None], lower, 0)
    rows, shift = _action(lower.device)
    action = torch.cat([-lower[..., rows, :], shift.expand(*lower.shape[:-2], 4, 10)], -2)
    values, vectors = torch.linalg.eig(action)
    vectors = vectors.real
    weights = torch.cat([vectors[..., 6:9, :] / vectors[..., 9:, :], torch.ones_like(vectors[..., 9:, :])], -2)
    E = (weights.transpose(-1, -2) @ basis.flatten(-2)).unflatten(-1, (3, 3))
    E = E * (2**0.5 / torch.linalg.matrix_norm(E)[..., None, None])
    real = values.imag.abs() < 1e-6 * (1 + values.real.abs())
    return E.to(points.dtype), real & usable[..., None] & torch.isfinite(E).all(-1).all(-1)


# exponents of x, y, z: the ten cubic monomials, then the ten lower ones, of which the last four are x, y, z, 1
_MONOMIALS = [e for e in itertools.product(range(3, -1, -1), repeat=3) if sum(e) == 3]
_MONOMIALS += [e for total in (2, 1, 0) for e in itertools.product(range(2, -1, -1), repeat=3) if sum(e) == total]


@cache
@torch.inference_mode(False)  # kept for callers that want gradients too
def _collect(device: torch.device) -> Float[Tensor, "20 64"]:
    """Which products of three of (x, y, z, 1) make which monomial."""
    table = torch.zeros(20, 64, dtype=torch.float64, device=device)
    for column, triple in enumerate(itertools.product(range(4), repeat=3)):
        table[_MONOMIALS.index(tuple(triple.count(i) for i in range(3))), column] = 1
    return table


@cache
@torch.inference_mode(False)  # kept for callers that want gradients too
def _action(device: torch.device) -> tuple[Tensor, Tensor]:
    """Multiplying the ten lower monomials by x: six become cubic ones (their rows), four stay low (a fixed matrix)."""
    grown = [_MONOMIALS.index((a + 1, b, c)) for a, b, c in _MONOMIALS[10:]]
    shift = torch.zeros(4, 10, dtype=torch.float64, device=device)
    for row, column in enumerate(grown[6:]):
        shift[row, column - 10] = 1
    return torch.tensor(grown[:6], device=device), shift


def _constraints(basis: Float[Tensor, "*batch 4 3 3"]) -> Float[Tensor, "*batch 10 20"]:
    """Coefficients of the ten cubics, by monomial."""
    products = torch.einsum("...iac,...jbc->...ijab", basis, basis)
    cubes = 2 * torch.einsum("...ijab,...kbd->...ijkad", products, basis)
    traces = torch.diagonal(products, dim1=-2, dim2=-1).sum(-1)
    cubes = cubes - traces[..., None, None, None] * basis[..., None, None, :, :, :]
    crossed = torch.linalg.cross(basis[..., :, None, 1, :], basis[..., None, :, 2, :])
    determinant = torch.einsum("...ia,...jka->...ijk", basis[..., 0, :], crossed)
    terms = torch.cat([cubes.flatten(-5, -3).flatten(-2), determinant.flatten(-3)[..., None]], -1)
    return (_collect(basis.device) @ terms).transpose(-1, -2)


def refine_essential(
    E: Float[Tensor, "*batch 3 3"],
    points: Float[Tensor, "*batch n 2"],
    targets: Float[Tensor, "*batch n 2"],
    weights: Float[Tensor, "*batch n"] | None = None,
    steps: int = 5,
) -> Float[Tensor, "*batch 3 3"]:
    """E that lowers the weighted sum of squared Sampson distances in calibrated coordinates, from a start near it."""
    refined = minimise_sampson(E.double(), points.double(), targets.double(), weights, steps, essential=True)
    return refined.to(E.dtype)


def decompose_essential(
    E: Float[Tensor, "*batch 3 3"],
) -> tuple[Float[Tensor, "*batch 4 3 3"], Float[Tensor, "*batch 4 3"]]:
    """The four (R, t) with E = +-[t]_x R, t of length 1."""
    U, _, right = torch.linalg.svd(E)
    W = E.new_tensor([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    turned = U @ torch.stack([W, W.T])[(slice(None),) + (None,) * (E.ndim - 2)] @ right
    turned = turned * torch.linalg.det(turned)[..., None, None].sign()
    one, two = turned.unbind(0)
    t = U[..., 2]
    return torch.stack([one, one, two, two], -3), torch.stack([t, -t, t, -t], -2)


def ray_depths(
    R: Float[Tensor, "*#batch 3 3"],
    t: Float[Tensor, "*#batch 3"],
    points: Float[Tensor, "*#batch n 2"],
    targets: Float[Tensor, "*#batch n 2"],
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    """Depths in both cameras where the two rays of a match come nearest each other; infinite or NaN where parallel."""
    first = F_.pad(points, (0, 1), value=1.0) @ R.transpose(-1, -2)
    second = F_.pad(targets, (0, 1), value=1.0)
    aa, bb, ab = first.square().sum(-1), second.square().sum(-1), (first * second).sum(-1)
    at, bt = (first * t[..., None, :]).sum(-1), (second * t[..., None, :]).sum(-1)
    parallax = aa * bb - ab.square()
    return (ab * bt - bb * at) / parallax, (aa * bt - ab * at) / parallax


def relative_pose(
    E: Float[Tensor, "*batch 3 3"],
    points: Float[Tensor, "*batch n 2"],
    targets: Float[Tensor, "*batch n 2"],
    weights: Float[Tensor, "*batch n"] | None = None,
) -> tuple[Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 3"], Bool[Tensor, "*batch n"]]:
    """R and t of the second camera, and which matches (calibrated coordinates) lie in front of both cameras.

    Of the four poses in E the one with the largest weighted number of matches in front. Raises ValueError where that
    is not more than half of the weight, or NaN comes in.
    """
    check_matches(points, targets, 1)
    R, t = decompose_essential(E)
    one, two = ray_depths(R, t, points[..., None, :, :], targets[..., None, :, :])
    front = (one > 0) & (two > 0)
    counted = front.to(points.dtype)
    votes = torch.ones_like(counted[..., 0, :]) if weights is None else weights.to(points.dtype)
    shares = (counted * votes[..., None, :]).sum(-1) / votes.sum(-1, keepdim=True)
    share, best = shares.max(-1)
    if not bool((share > 0.5).all()):
        raise ValueError(
            f"points, targets: no pose in E has most matches in front of both cameras ({float(share.min()):.0%})"
        )
    index = best[..., None]
    R = torch.take_along_dim(R, index[..., None, None], -3)[..., 0, :, :]
    t = torch.take_along_dim(t, index[..., None], -2)[..., 0, :]
    return R, t, torch.take_along_dim(front, index[..., None], -2)[..., 0, :]
