r"""Global alignment: the pointmaps of many pairs of pictures in one frame, with a camera for every picture.

Each pair e = (n, m) says where the pixels of both pictures are, in the axes of its first camera and up to a scale. Sought
are one pointmap chi^v per picture and a similarity per pair that carries what the pair said onto them:

    min  sum_e sum_{v in e} sum_i C^{v,e}_i || chi^v_i - s_e (R_e X^{v,e}_i + t_e) ||,      prod_e s_e = 1

It is not bundle adjustment: distances are in 3D, and no camera model takes part. A spanning tree of the pairs that are
surest of themselves gives the start. Then the sum of distances (not squares: one wrong pair does not spoil the rest) is
lowered by majorisation: with weights w = C / distance it is a weighted least squares in which chi is a mean and each pair's
R and t are Procrustes'. Under the constraint each scale solves

    A_e s^2 - B_e s = mu,   A_e = sum w |x|^2,  B_e = sum w y . R x (both about their means),  mu such that sum_e log s_e = 0

so that the sum never rises and nothing shrinks to a point. Differs from the paper, which descends by Adam.

    pairs                  e x 2: the pictures' numbers; every picture comes first in some pair
    points, confidence     e x 2 x H x W x 3, e x 2 x H x W: what DUSt3R says about each pair

Wang et al.: DUSt3R: Geometric 3D Vision Made Easy, 2023, arXiv:2312.14132 (section 3.4); Hunter, Lange: A Tutorial on MM
Algorithms, 2004.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oculi.geometry.camera import Camera, intrinsics, world_to_camera_from_pose
from oculi.geometry.pointmaps import Similarity, fit_rotation, fit_similarity, focal_length, similarity

SMOOTH = 1e-9  # of the maps' size: below it a distance is as good as zero


@dataclass
class Alignment:
    """One pointmap per picture in the axes of picture 0's camera, the cameras, each pair's scale, and the sum of weighted
    distances after every round."""

    points: Float[Tensor, "n height width 3"]
    cameras: Camera
    scales: Float[Tensor, " pairs"]
    objective: list[float]


def global_alignment(
    pairs: Int[Tensor, "e 2"],
    points: Float[Tensor, "e 2 height width 3"],
    confidence: Float[Tensor, "e 2 height width"] | None = None,
    iterations: int = 300,
    tolerance: float = 1e-8,
) -> Alignment:
    """Align all pairs; ends when a round lowers the sum by less than `tolerance` of itself.

    Raises ValueError where the pairs do not connect the pictures, a picture never comes first, or a map is degenerate.
    """
    weight = torch.ones_like(points[..., 0]) if confidence is None else confidence
    _check(pairs, points, weight)
    height, width = points.shape[2:4]
    maps, weight = points.flatten(2, 3).double(), weight.flatten(2).double()
    world, found = _start(pairs, maps, weight)
    eps = SMOOTH * float(torch.linalg.norm(world - world.mean((0, 1)), dim=-1).mean())
    objective = [_sum(pairs, world, maps, weight, found, eps)]
    for _ in range(iterations):
        world = _means(pairs, world, maps, weight, found, eps)
        found = _similarities(world[pairs], maps, weight, found, eps)
        objective.append(_sum(pairs, world, maps, weight, found, eps))
        if objective[-2] - objective[-1] <= tolerance * objective[-2]:
            break
    world, cameras = _cameras(pairs, world, maps.unflatten(2, (height, width)), weight)
    aligned = world.unflatten(1, (height, width)).to(points)
    return Alignment(aligned, cameras, found.scale.to(points), objective)


def _check(pairs: Tensor, points: Tensor, weight: Tensor) -> None:
    if len(pairs) < 1 or len(pairs) != len(points):
        raise ValueError(f"pairs: expected one for each of {len(points)} pairs of maps, got {len(pairs)}")
    if bool((pairs < 0).any()) or bool((pairs[:, 0] == pairs[:, 1]).any()):
        raise ValueError(f"pairs: expected numbers of two different pictures, got {pairs.tolist()}")
    if not bool(torch.isfinite(points).all()):
        raise ValueError("points: expected finite pointmaps, got NaN or infinity")
    if not bool((torch.isfinite(weight) & (weight > 0)).all()):
        raise ValueError("confidence: expected finite positive weights")
    first = set(pairs[:, 0].tolist())
    missing = [v for v in range(int(pairs.max()) + 1) if v not in first]
    if missing:
        raise ValueError(f"pairs: every picture must come first in some pair, {missing[0]} does not")


def _start(pairs: Tensor, maps: Tensor, weight: Tensor) -> tuple[Tensor, Similarity]:
    """Pictures placed one after the other along the surest pairs; then every pair fitted to them, scales multiplied to 1."""
    sure = weight.mean(2).prod(1)
    world = torch.zeros(int(pairs.max()) + 1, *maps.shape[2:], dtype=maps.dtype, device=maps.device)
    best = int(sure.argmax())
    world[pairs[best]] = maps[best]
    placed = torch.zeros(len(world), dtype=torch.bool, device=maps.device)
    placed[pairs[best]] = True
    while not bool(placed.all()):
        known = placed[pairs]
        reach = known[:, 0] != known[:, 1]
        if not bool(reach.any()):
            raise ValueError(f"pairs: they do not connect picture {int((~placed).nonzero()[0])} with the others")
        e = int(torch.where(reach, sure, -1.0).argmax())
        old, new = (0, 1) if bool(known[e, 0]) else (1, 0)
        carried = similarity(maps[e, old], world[pairs[e, old]], weight[e, old])
        world[pairs[e, new]] = carried(maps[e, new])
        placed[pairs[e, new]] = True
    found, fixed = fit_similarity(maps.flatten(1, 2), world[pairs].flatten(1, 2), weight.flatten(1))
    if not bool(fixed.all()):
        raise ValueError(f"points: the maps of pair {int((~fixed).nonzero()[0])} do not fix a rotation")
    size = found.scale.log().mean().exp()
    return world / size, found._replace(scale=found.scale / size)


def _placed(maps: Tensor, found: Similarity) -> Float[Tensor, "e 2 n 3"]:
    return found(maps.flatten(1, 2)).unflatten(1, (2, -1))


def _distances(said: Tensor, wanted: Tensor, eps: float) -> Float[Tensor, "e 2 n"]:
    return ((said - wanted).square().sum(-1) + eps**2).sqrt()


def _sum(pairs: Tensor, world: Tensor, maps: Tensor, weight: Tensor, found: Similarity, eps: float) -> float:
    """What is minimised."""
    return float((weight * _distances(_placed(maps, found), world[pairs], eps)).sum())


def _means(pairs: Tensor, world: Tensor, maps: Tensor, weight: Tensor, found: Similarity, eps: float) -> Tensor:
    """chi: the weighted mean of what the pairs say about each pixel."""
    said = _placed(maps, found)
    share = weight / _distances(said, world[pairs], eps)
    flat = pairs.flatten()
    total = torch.zeros_like(world).index_add(0, flat, (share[..., None] * said).flatten(0, 1))
    mass = torch.zeros_like(world[..., 0]).index_add(0, flat, share.flatten(0, 1))
    return total / mass[..., None]


def _similarities(wanted: Tensor, maps: Tensor, weight: Tensor, found: Similarity, eps: float) -> Similarity:
    """R, t and s of all pairs, given chi."""
    share = (weight / _distances(_placed(maps, found), wanted, eps)).flatten(1)
    x, y = maps.flatten(1, 2), wanted.flatten(1, 2)
    mass = share.sum(1, keepdim=True)
    middle_x, middle_y = ((share[:, None] @ v)[:, 0] / mass for v in (x, y))
    x, y = x - middle_x[:, None], y - middle_y[:, None]
    R, along, _ = fit_rotation(x, y, share)
    scale = _scales((share * x.square().sum(-1)).sum(1), along)
    return Similarity(scale, R, middle_y / scale[:, None] - (R @ middle_x[..., None])[..., 0])


def _scales(A: Float[Tensor, " e"], B: Float[Tensor, " e"]) -> Float[Tensor, " e"]:
    """argmin sum_e A_e s_e^2 - 2 B_e s_e with prod_e s_e = 1, by bisection of the multiplier."""

    def roots(mu: Tensor) -> Tensor:
        return (B + (B.square() + 4 * A * mu).clamp_min(0).sqrt()) / (2 * A)

    low, high = -(B.square() / (4 * A)).min(), A.log().mean().exp()
    for _ in range(100):
        middle = (low + high) / 2
        above = roots(middle).log().sum() > 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    scale = roots((low + high) / 2)
    return scale / scale.log().mean().exp()


def _cameras(pairs: Tensor, world: Tensor, maps: Tensor, weight: Tensor) -> tuple[Tensor, Camera]:
    """Each picture's camera from its own pointmap in the surest pair that it comes first in; camera 0's axes for all."""
    height, width = maps.shape[2:4]
    sure = weight.mean(2).prod(1)
    order = torch.arange(len(world), device=pairs.device)
    chosen = torch.where(pairs[:, 0] == order[:, None], sure, -1.0).argmax(1)
    own, share = maps[chosen, 0], weight[chosen, 0]
    pose = similarity(own.flatten(1, 2), world, share)
    center = pose.scale[:, None] * pose.t
    first, origin = pose.R[0], center[0]
    focal = focal_length(own, share.unflatten(1, (height, width)))
    K = torch.stack([intrinsics(float(f), float(f), width / 2, height / 2) for f in focal]).to(world.device)
    matrix = world_to_camera_from_pose(first.T @ pose.R, (center - origin) @ first)
    return (world - origin) @ first, Camera(K, matrix.float(), height, width)
