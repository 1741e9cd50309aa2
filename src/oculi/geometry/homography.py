r"""Homographies: projective maps of the plane, defined up to scale (8 degrees of freedom).

    w [x' y' 1]^T = H [x y 1]^T        H is 3x3, nonsingular, scaled so that H[2, 2] = 1 where that is not near zero

Two views are related by one H where the scene is planar, or where the camera only rotates; then H = K R K^{-1}.

The normalised direct linear transform moves each point set to mean 0 and mean distance sqrt(2), stacks two equations
per match,

    [ 0  0  0  -x -y -1   y'x  y'y  y' ] h = 0
    [ x  y  1   0  0  0  -x'x -x'y -x' ] h = 0

takes h as the right singular vector of the smallest singular value and undoes the normalisation. Four matches, no three
of them on a line, fix H. Solved in float64.

`random_homography` draws views of a flat picture: its corners displaced, scaled, turned and moved about its middle. With
`warp_by_homography` they make pairs of pictures of which every correspondence is known.

Source: Hartley and Zisserman, Multiple View Geometry (2004), sections 4.1, 4.4.4 (algorithm 4.2) and 8.4. DeTone,
Malisiewicz, Rabinovich: SuperPoint, 2018, arXiv:1712.07629 (random homographies; kinds of change and their bounds).
"""

from __future__ import annotations

import math
from functools import cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from oculi.geometry.camera import pixel_centers


def apply_homography(
    H: Float[Tensor, "*batch 3 3"], points: Float[Tensor, "*batch n 2"]
) -> Float[Tensor, "*batch n 2"]:
    """Map points (x, y); a point on the line that H sends to infinity comes back as infinity or NaN."""
    mapped = F.pad(points, (0, 1), value=1.0) @ H.transpose(-1, -2)
    return mapped[..., :2] / mapped[..., 2:]


def transfer_error(
    H: Float[Tensor, "*batch 3 3"], source: Float[Tensor, "*batch n 2"], target: Float[Tensor, "*batch n 2"]
) -> Float[Tensor, "*batch n"]:
    """Distance in pixels between H(source) and target; infinity where H sends the source to infinity."""
    distance = torch.linalg.norm(apply_homography(H, source) - target, dim=-1)
    return torch.nan_to_num(distance, nan=math.inf)


def homography_of_rotation(
    K: Float[Tensor, "*batch 3 3"], R: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch 3 3"]:
    """H = K R K^{-1}: the pixels of a camera that turned by R (first camera's coordinates to the second's)."""
    return K @ R @ torch.linalg.inv(K)


def homography_dlt(
    source: Float[Tensor, "*batch n 2"], target: Float[Tensor, "*batch n 2"]
) -> Float[Tensor, "*batch 3 3"]:
    """H with target = H(source) in the algebraic least-squares sense, from four or more matches, batched.

    Raises ValueError for fewer than four matches, unequal shapes, NaN, or points that do not fix H (on one line).
    """
    if source.shape != target.shape or source.shape[-1] != 2:
        raise ValueError(
            f"source, target: expected equal shapes ending in n x 2, got {tuple(source.shape)}, {tuple(target.shape)}"
        )
    if source.shape[-2] < 4:
        raise ValueError(f"source: expected at least 4 matches, got {source.shape[-2]}")
    if not bool(torch.isfinite(source).all() and torch.isfinite(target).all()):
        raise ValueError("source, target: expected finite coordinates, got NaN or infinity")
    H, well_posed = solve_dlt(source, target)
    if not bool(well_posed.all()):
        raise ValueError("source, target: the matches do not fix a homography (points coincide or lie on one line)")
    return H


def solve_dlt(
    source: Float[Tensor, "*batch n 2"], target: Float[Tensor, "*batch n 2"]
) -> tuple[Float[Tensor, "*batch 3 3"], Bool[Tensor, "*batch"]]:
    """`homography_dlt` without the checks: H and whether the matches fixed it; a batch may hold bad samples."""
    from_points, T = normalise_points(source.double())
    to_points, U = normalise_points(target.double())
    x, y = from_points.unbind(-1)
    u, v = to_points.unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    first = torch.stack([zero, zero, zero, -x, -y, -one, v * x, v * y, v], -1)
    second = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y, -u], -1)
    equations = torch.cat([first, second], -2)
    # four matches give 8 equations: the ninth right singular vector exists in the full decomposition only
    _, singular, right = torch.linalg.svd(equations, full_matrices=source.shape[-2] == 4)
    normalised = right[..., 8, :].unflatten(-1, (3, 3))
    volume = torch.linalg.det(normalised).abs()
    H = torch.linalg.inv(U) @ normalised @ T
    corner = H[..., 2:, 2:]
    size = torch.linalg.matrix_norm(H)[..., None, None]
    H = H / torch.where(corner.abs() > 1e-12 * size, corner, size)
    well_posed = (singular[..., 7] > 1e-6 * singular[..., 0]) & (volume > 1e-9) & torch.isfinite(H).all(-1).all(-1)
    return H.to(source.dtype), well_posed


def solve_four_points(
    source: Float[Tensor, "*batch 4 2"], target: Float[Tensor, "*batch 4 2"]
) -> tuple[Float[Tensor, "*batch 3 3"], Bool[Tensor, "*batch"]]:
    """H of exactly four matches in closed form, and whether they fix a map that folds nothing over.

    With the fourth point as origin, H = sum_i (c'_i / c_i) p'_i (p_j x p_k)^T, c_i being twice the area of the triangle
    without i; the three areas and the whole one must have kept their signs, or all have changed them (a reflection).
    """
    both = torch.stack([source, target])
    origin = both[..., 3:, :]
    apart = both[..., :3, :] - origin
    corners = F.pad(apart, (0, 1), value=1.0)
    rows = torch.linalg.cross(corners.roll(-1, -2), corners.roll(1, -2))
    areas = rows[..., 2]
    h = corners[1].transpose(-1, -2) @ ((areas[1] / areas[0])[..., None] * rows[0])
    h[..., 2] -= (h[..., :2] * origin[0]).sum(-1)
    h[..., :2, :] += origin[1].transpose(-1, -2) * h[..., 2:, :]
    products = torch.cat([areas, areas.sum(-1, keepdim=True)], -1).prod(0)
    size = apart.abs().amax((-1, -2)).prod(0)
    low, high = products.aminmax(dim=-1)
    least = 1e-12 * size.square()  # triangles thinner than this next to the sample's own size fix nothing
    usable = ((low > least) | (high < -least)) & torch.isfinite(h[..., 2, 2])
    corner = h[..., 2:, 2:]
    return h / torch.where(corner.abs() > 1e-12 * h.abs().amax((-1, -2), keepdim=True), corner, 1), usable


def squared_transfer(
    H: Float[Tensor, "*batch 3 3"], source: Float[Tensor, "*#batch n 2"], target: Float[Tensor, "*#batch n 2"]
) -> Float[Tensor, "*batch n"]:
    """`transfer_error` squared, many maps at once; NaN where H sends the source to infinity."""
    mapped = H[..., :2] @ source.transpose(-1, -2) + H[..., 2:]
    apart = mapped[..., :2, :] / mapped[..., 2:, :] - target.transpose(-1, -2)
    return apart.square().sum(-2)


def refine_homography(
    H: Float[Tensor, "3 3"], source: Float[Tensor, "n 2"], target: Float[Tensor, "n 2"], steps: int = 5
) -> Float[Tensor, "3 3"]:
    """H that lowers the sum of squared distances in the second picture: Gauss-Newton from a start near it."""
    both = torch.cat([source, target], 1).double().T.contiguous()
    mean = both.mean(1, keepdim=True)
    both = both - mean
    scale = both.abs().mean(1, keepdim=True).clamp_min(1e-12)
    points, places = (both / scale).split(2)
    scales, means = scale[:, 0].tolist(), mean[:, 0].tolist()
    back, forth = _similarity(scales[:2], means[:2], H.device), _similarity(scales[2:], means[2:], H.device)
    h = torch.linalg.solve(forth, H.double() @ back)
    rows, signs = _normal_layout(H.device)
    for _ in range(steps):
        h = h / torch.linalg.vector_norm(h)
        mapped = h[:, :2] @ points + h[:, 2:]
        w = mapped[2].reciprocal()
        x = torch.cat([points, torch.ones_like(points[:1])]) * w
        u = mapped[:2] * w
        r = u - places
        # the derivatives are (x, 0, -u x) and (0, x, -v x), so that all sums are weighted sums of x x^T and of x
        products = torch.cat([u.square(), u * r]).view(2, 2, -1).sum(1)
        moments = (torch.cat([u, products[:1]])[:, None] * x).flatten(0, 1)
        sums = (torch.cat([x, moments, r, products[1:]]) @ x.T).flatten()
        flat = h.flatten()
        # no step along h itself, which is a change of scale
        normal = torch.addr(sums[rows] * signs, flat, flat, alpha=len(source))
        pull = sums[36:] * -signs[8]
        h = h - torch.linalg.solve_ex(normal, pull)[0].view(3, 3)
    refined = forth @ torch.linalg.solve(back, h, left=False)
    return (refined / torch.where(refined[2, 2].abs() > 1e-12, refined[2, 2], 1)).to(H.dtype)


def _similarity(scale: list[float], mean: list[float], device: torch.device) -> Float[Tensor, "3 3"]:
    matrix = [[scale[0], 0, mean[0]], [0, scale[1], mean[1]], [0, 0, 1]]
    return torch.tensor(matrix, dtype=torch.float64, device=device)


@cache
def _normal_layout(device: torch.device) -> tuple[Tensor, Tensor]:
    """Where in the 45 sums the 9 x 9 normal matrix [[A, 0, -U], [0, A, -V], [-U, -V, B]] finds its entries; signs."""
    blocks, factors = [[0, 0, 1], [0, 0, 2], [1, 2, 3]], [[1, 0, -1], [0, 1, -1], [-1, -1, 1]]
    inner = torch.arange(9, device=device).view(3, 3)
    rows = torch.cat([torch.cat([inner + 9 * k for k in line], 1) for line in blocks])
    signs = torch.tensor(factors, dtype=torch.float64, device=device).repeat_interleave(3, 0).repeat_interleave(3, 1)
    return rows, signs


def normalise_points(points: Float[Tensor, "*batch n 2"]) -> tuple[Tensor, Tensor]:
    """Points with mean 0 and mean distance sqrt(2), and the similarity that did it."""
    mean = points.mean(-2)
    centred = points - mean[..., None, :]
    distance = torch.linalg.norm(centred, dim=-1).mean(-1)
    scale = math.sqrt(2) / distance.clamp_min(1e-12)
    T = torch.zeros(*points.shape[:-2], 3, 3, dtype=points.dtype, device=points.device)
    T[..., 0, 0] = T[..., 1, 1] = scale
    T[..., :2, 2] = -scale[..., None] * mean
    T[..., 2, 2] = 1.0
    return centred * scale[..., None, None], T


def random_homography(
    count: int,
    height: int,
    width: int,
    generator: torch.Generator | None = None,
    perspective: float = 0.1,
    scale: float = 0.2,
    rotation: float = math.pi / 6,
    translation: float = 0.1,
) -> Float[Tensor, "count 3 3"]:
    """`count` maps of a picture's pixels to those of another view of the same size, float64, H[2, 2] = 1.

    perspective, translation: largest move of a corner and of the whole, as a share of the sides, below 0.25; scale: the size
    lies in [1 / (1 + scale), 1 + scale]; rotation: largest angle in radians. All zero gives the identity.
    """
    if count < 1 or height < 1 or width < 1:
        raise ValueError(f"count, height, width: expected at least 1 of each, got {count}, {height} and {width}")
    if not 0 <= perspective < 0.25:  # beyond, three corners can fall on a line
        raise ValueError(f"perspective: expected at least 0 and below 0.25, got {perspective}")
    for name, value in (("scale", scale), ("rotation", rotation), ("translation", translation)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}: expected a finite number of at least 0, got {value}")
    drawn = 2 * torch.rand(count, 12, generator=generator, dtype=torch.float64) - 1
    size = torch.tensor([width, height], dtype=torch.float64)
    corners = size * torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64)
    moved = corners - size / 2 + perspective * size * drawn[:, :8].unflatten(1, (4, 2))
    angle = rotation * drawn[:, 8]
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).unflatten(-1, (2, 2))
    grown = (1 + scale) ** drawn[:, 9]
    moved = grown[:, None, None] * (moved @ turn.transpose(-1, -2))
    moved = moved + size / 2 + translation * size * drawn[:, None, 10:]
    return homography_dlt(corners.expand(count, 4, 2), moved)


def warp_by_homography(
    image: Float[Tensor, "b c h w"], H: Float[Tensor, "b 3 3"]
) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, "b h w"]]:
    """The picture seen through H (x' = H x), bilinear, black outside, and which pixels show a part of it."""
    height, width = image.shape[-2:]
    places = pixel_centers(height, width, image.device).to(H)
    homogeneous = F.pad(places, (0, 1), value=1.0) @ torch.linalg.inv(H).transpose(-1, -2)
    size = places.new_tensor([width, height])
    depth = homogeneous[..., 2:]
    before = depth > 1e-9 * homogeneous.abs().amax(-1, keepdim=True)  # H[2, 2] = 1: the horizon's other side is behind
    source = torch.where(before, homogeneous[..., :2] / torch.where(before, depth, 1.0), -1e4 * size)
    inside = ((source >= 0) & (source <= size)).all(-1).unflatten(1, (height, width))
    grid = (source * (2 / size) - 1).unflatten(1, (height, width)).to(image)
    return F.grid_sample(image, grid, align_corners=False), inside


def warp_perspective(
    image: Float[Tensor, "c h w"], H: Float[Tensor, "3 3"], height: int, width: int, mode: str = "bicubic"
) -> tuple[Float[Tensor, "c height width"], Bool[Tensor, "height width"]]:
    """A `height` x `width` picture that shows at H(p) what `image` shows at p, and where it does.

    The edge is repeated outside. Differentiable in the picture and in H.
    """
    old = image.shape[-2:]
    pixels = pixel_centers(height, width, image.device).double()
    back = torch.linalg.inv(H.double())
    places = apply_homography(back, pixels)
    # in front of the plane: the third coordinate keeps the sign that it has at the picture's own middle
    middle = apply_homography(H.double(), places.new_tensor([[old[1] / 2, old[0] / 2]]))
    depth, own = (F.pad(p, (0, 1), value=1.0) @ back[2] for p in (pixels, middle))
    size = places.new_tensor([old[1], old[0]])
    inside = ((places >= 0) & (places <= size)).all(-1) & (depth * own > 0)
    unit = (places * (2 / size) - 1).nan_to_num(2.0).clamp(-2, 2).to(image)
    warped = F.grid_sample(
        image[None], unit.view(1, height, width, 2), mode=mode, padding_mode="border", align_corners=False
    )
    return warped[0], inside.view(height, width)
