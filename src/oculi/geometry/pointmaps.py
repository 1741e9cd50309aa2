r"""Pointmaps: every pixel carries a 3D point in a shared frame; what can be read off them.

    X^{n,m}   H x W x 3, the pointmap of picture n in the axes of camera m       X^{n,n} = depth K^{-1} [u v 1]^T

    depth            z of X^{n,n}
    focal length     f* = argmin_f sum_i C_i || (u'_i, v'_i) - f (X_0, X_1)_i / X_2i ||,   u', v' from the picture's centre
    relative pose    argmin_{R,t,s} sum_i sqrt(C^{1,1}_i C^{1,2}_i) || s (R X^{1,1}_i + t) - X^{1,2}_i ||^2
    correspondences  pixels i, j of two pictures whose points in one frame are each other's nearest

The focal length takes a principal point at the picture's centre and square pixels; its sum of distances (not squares, so
that outliers count little) is minimised by Weiszfeld's reweighted least squares. The pose is Umeyama's: from pointmaps of
the *same* picture in two frames, so that pixel i is the same point in both. Maps are known up to one scale, hence s.

Wang et al.: DUSt3R, 2023, arXiv:2312.14132; Weiszfeld, Tohoku Math. J. 43, 1937; Umeyama, PAMI 13(4), 1991.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from oculi.geometry.camera import Camera, pixel_centers

CHUNK = 1 << 24  # distances held at a time


class Similarity(NamedTuple):
    """y = s (R x + t): scale, rotation and translation, in float64."""

    scale: Float[Tensor, "*batch"]
    R: Float[Tensor, "*batch 3 3"]
    t: Float[Tensor, "*batch 3"]

    def __call__(self, points: Float[Tensor, "*batch n 3"]) -> Float[Tensor, "*batch n 3"]:
        """The points moved, in their own precision."""
        moved = points.to(self.R) @ self.R.transpose(-1, -2) + self.t[..., None, :]
        return (self.scale[..., None, None] * moved).to(points)

    def matrix(self) -> Float[Tensor, "*batch 4 4"]:
        """[[R, t], [0, 1]]: the rigid motion, in the units of what comes in."""
        matrix = torch.eye(4, dtype=self.R.dtype, device=self.R.device).repeat(*self.scale.shape, 1, 1)
        matrix[..., :3, :3], matrix[..., :3, 3] = self.R, self.t
        return matrix


def pointmap(
    depth: Float[Tensor, "*batch height width"], K: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch height width 3"]:
    """X^{n,n}: each pixel's point in its own camera's axes, from the depth along z."""
    height, width = depth.shape[-2:]
    pixels = F.pad(pixel_centers(height, width, depth.device).to(depth), (0, 1), value=1.0)
    directions = pixels @ torch.linalg.inv(K).transpose(-1, -2)
    return depth[..., None] * directions.unflatten(-2, (height, width))


def change_frame(
    points: Float[Tensor, "*batch height width 3"], source: Camera, target: Camera
) -> Float[Tensor, "*batch height width 3"]:
    """A pointmap in the axes of camera `source`, in those of camera `target`: X^{n,m} = P_m P_n^{-1} X^{n,n}."""
    R = target.R @ source.R.transpose(-1, -2)
    t = target.t - (R @ source.t[..., None])[..., 0]
    moved = points.flatten(-3, -2) @ R.transpose(-1, -2) + t[..., None, :]
    return moved.unflatten(-2, points.shape[-3:-1])


def project_pointmap(
    points: Float[Tensor, "*batch height width 3"], K: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch height width 2"]:
    """Pixels (x, y) of points in the camera's axes; of X^{n,n}, every pixel's own centre."""
    seen = points.flatten(-3, -2) @ K.transpose(-1, -2)
    return (seen[..., :2] / seen[..., 2:]).unflatten(-2, points.shape[-3:-1])


def pointmap_depth(points: Float[Tensor, "*batch height width 3"]) -> Float[Tensor, "*batch height width"]:
    """Depth along z of a pointmap in its own camera's axes."""
    return points[..., 2]


def focal_length(
    points: Float[Tensor, "*batch height width 3"],
    confidence: Float[Tensor, "*batch height width"] | None = None,
    iterations: int = 100,
) -> Float[Tensor, "*batch"]:
    """Focal length in pixels of each picture, from its pointmap in its own camera's axes, of any scale.

    Points that are not finite or not in front of the camera do not count. Raises ValueError where too few do, or all lie
    on the optical axis.
    """
    height, width = points.shape[-3:-1]
    pixels = pixel_centers(height, width, points.device).double() - points.new_tensor([width / 2, height / 2]).double()
    x = points.flatten(-3, -2).double()
    weight, good = _weights(x, confidence, x[..., 2] > 1e-9)
    rays = torch.where(good[..., None], x[..., :2] / torch.where(good, x[..., 2], 1.0)[..., None], 0.0)
    along, across = (rays * pixels).sum(-1), rays.square().sum(-1)
    if bool(((weight * across).sum(-1) <= 1e-12 * weight.sum(-1)).any()) or bool((good.sum(-1) < 2).any()):
        raise ValueError(
            "points: they do not fix a focal length (fewer than 2 in front of the camera, or all on its axis)"
        )
    focal = (weight * along).sum(-1) / (weight * across).sum(-1)
    for _ in range(iterations):
        residual = torch.linalg.norm(pixels - focal[..., None, None] * rays, dim=-1)
        share = weight / residual.clamp_min(1e-6)
        found = (share * along).sum(-1) / (share * across).sum(-1)
        settled = bool(((found - focal).abs() <= 1e-10 * found.abs()).all())
        focal = found
        if settled:
            break
    return focal.to(points)


def similarity(
    source: Float[Tensor, "*batch n 3"],
    target: Float[Tensor, "*batch n 3"],
    weight: Float[Tensor, "*batch n"] | None = None,
) -> Similarity:
    """argmin sum_i w_i ||s (R x_i + t) - y_i||^2, batched. Points that are not finite in both do not count.

    Raises ValueError where fewer than three count, or they coincide or lie on one line, since then R is not fixed.
    """
    if source.shape != target.shape:
        raise ValueError(f"source, target: expected equal shapes, got {tuple(source.shape)} and {tuple(target.shape)}")
    found, fixed = fit_similarity(source, target, weight)
    if not bool(fixed.all()):
        raise ValueError("source, target: the points do not fix a rotation (fewer than 3, or they lie on one line)")
    return found


def fit_similarity(
    source: Float[Tensor, "*batch n 3"], target: Float[Tensor, "*batch n 3"], weight: Tensor | None = None
) -> tuple[Similarity, Bool[Tensor, "*batch"]]:
    """`similarity` without the check, and where the points fixed it."""
    x, y = source.double(), target.double()
    share, good = _weights(torch.cat([x, y], -1), weight)
    x, y = (torch.where(good[..., None], v, 0.0) for v in (x, y))
    share = share / share.sum(-1, keepdim=True).clamp_min(1e-300)
    middle_x, middle_y = (share[..., None, :] @ x)[..., 0, :], (share[..., None, :] @ y)[..., 0, :]
    from_x, from_y = x - middle_x[..., None, :], y - middle_y[..., None, :]
    R, trace, singular = fit_rotation(from_x, from_y, share)
    spread = (share * from_x.square().sum(-1)).sum(-1)
    scale = trace / spread.clamp_min(1e-300)
    t = middle_y / scale.clamp_min(1e-300)[..., None] - (R @ middle_x[..., None])[..., 0]
    fixed = ((share > 0).sum(-1) >= 3) & (singular[..., 1] > 1e-12 * singular[..., 0]) & (singular[..., 0] > 1e-300)
    return Similarity(scale, R, t), fixed & (scale > 0)


def fit_rotation(
    x: Float[Tensor, "*batch n 3"], y: Float[Tensor, "*batch n 3"], weight: Float[Tensor, "*batch n"]
) -> tuple[Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch"], Float[Tensor, "*batch 3"]]:
    """The rotation nearest to y = R x for centred points, sum_i w_i y_i . R x_i, and the covariance's singular values."""
    covariance = (y * weight[..., None]).transpose(-1, -2) @ x
    U, singular, Vh = torch.linalg.svd(covariance)
    sign = torch.ones_like(singular)
    sign[..., 2] = torch.where(torch.linalg.det(U @ Vh) < 0, -1.0, 1.0)
    return (U * sign[..., None, :]) @ Vh, (singular * sign).sum(-1), singular


def relative_pose(
    own: Float[Tensor, "*batch height width 3"],
    other: Float[Tensor, "*batch height width 3"],
    confidence: Float[Tensor, "*batch height width"] | None = None,
    other_confidence: Float[Tensor, "*batch height width"] | None = None,
) -> Similarity:
    """From picture 1's pointmaps X^{1,1} and X^{1,2}: camera 1's axes to camera 2's, and the scale between the maps."""
    weight = None
    if confidence is not None and other_confidence is not None:
        weight = (confidence * other_confidence).sqrt().flatten(-2)
    return similarity(own.flatten(-3, -2), other.flatten(-3, -2), weight)


def reciprocal_matches(
    first: Float[Tensor, "n 3"], second: Float[Tensor, "m 3"], within: float = math.inf
) -> Int[Tensor, "matches 2"]:
    """Pairs (i, j) of points of two pictures, in one frame, each the other's nearest and at most `within` apart.

    Exact, in rows at a time: memory stays bounded, time grows with n m. What is not finite has no match.
    """
    if not within > 0:
        raise ValueError(f"within: expected a positive distance, got {within}")
    here, there = (torch.isfinite(v).all(-1).nonzero()[:, 0] for v in (first, second))
    a, b = first[here], second[there]
    if not len(a) or not len(b):
        return torch.zeros(0, 2, dtype=torch.int64, device=first.device)
    nearest, index, back = [], [], torch.full((len(b),), math.inf, device=b.device, dtype=b.dtype)
    owner = torch.zeros(len(b), dtype=torch.int64, device=b.device)
    start = 0
    for rows in a.split(max(1, CHUNK // len(b))):
        distance = torch.cdist(rows, b, compute_mode="donot_use_mm_for_euclid_dist")
        closest = distance.min(1)
        nearest.append(closest.values)
        index.append(closest.indices)
        best = distance.min(0)
        closer = best.values < back
        back, owner = torch.where(closer, best.values, back), torch.where(closer, best.indices + start, owner)
        start += len(rows)
    distance_to, j = torch.cat(nearest), torch.cat(index)
    i = torch.arange(len(a), device=a.device)
    mutual = (owner[j] == i) & (distance_to <= within)
    return torch.stack([here[i[mutual]], there[j[mutual]]], 1)


def _weights(
    points: Float[Tensor, "*batch n k"], confidence: Tensor | None, good: Tensor | None = None
) -> tuple[Float[Tensor, "*batch n"], Bool[Tensor, "*batch n"]]:
    """What counts, and how much. Raises ValueError for weights that are negative, not finite, or of another shape."""
    finite = torch.isfinite(points).all(-1)
    good = finite if good is None else finite & good
    if confidence is None:
        return good.double(), good
    if confidence.numel() != good.numel():
        raise ValueError(f"confidence: expected one for each of {tuple(good.shape)}, got {tuple(confidence.shape)}")
    weight = confidence.double().reshape(good.shape)
    if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise ValueError("confidence: expected finite weights of at least 0")
    return weight * good, good & (weight > 0)
