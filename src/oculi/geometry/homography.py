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


def decompose_homography(
    H: Float[Tensor, "*batch 3 3"], K: Float[Tensor, "*#batch 3 3"], other_K: Float[Tensor, "*#batch 3 3"] | None = None
) -> tuple[Float[Tensor, "*batch 4 3 3"], Float[Tensor, "*batch 4 3"], Float[Tensor, "*batch 4 3"]]:
    """The four (R, t, n) with K'^{-1} H K ~ R + t n^T, that is, a plane n . X = d, ||n|| = 1, seen by a first camera and by
    one with the pose [R | d t]. The plane is in front where n . K^{-1} [u v 1]^T > 0, which leaves one or two of them.

    Without a baseline t is 0 and n is anything. other_K: K', by default K.

    Ma, Soatto, Kosecka, Sastry: An Invitation to 3-D Vision, 2004, section 5.3.3.
    """
    plane = torch.linalg.inv(K if other_K is None else other_K) @ H @ K
    scale = torch.linalg.svdvals(plane)[..., 1] * torch.linalg.det(plane).sign()
    plane = (
        plane / scale[..., None, None]
    )  # what is left is fixed up to nothing: both cameras see one side of the plane
    squares, axes = torch.linalg.eigh(plane.transpose(-1, -2) @ plane)
    least, middle, most = axes.unbind(-1)
    low, high = (1 - squares[..., :1]).clamp_min(0).sqrt(), (squares[..., 2:] - 1).clamp_min(0).sqrt()
    length = (squares[..., 2:] - squares[..., :1]).clamp_min(1e-300).sqrt()
    turns, moves, normals = [], [], []
    for sign in (1, -1):  # the two directions that the plane's map leaves as long as they are
        kept = torch.where(length > 1e-7, (low * most + sign * high * least) / length, most)
        normal = torch.linalg.cross(middle, kept)
        before = torch.stack([middle, kept, normal], -1)
        one, two = ((plane @ v[..., None])[..., 0] for v in (middle, kept))
        R = torch.stack([one, two, torch.linalg.cross(one, two)], -1) @ before.transpose(-1, -2)
        t = ((plane - R) @ normal[..., None])[..., 0]
        turns += [R, R]
        moves += [t, -t]
        normals += [normal, -normal]
    return torch.stack(turns, -3), torch.stack(moves, -2), torch.stack(normals, -2)


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

    In homogeneous pixels H = sum_i (c'_i / c_i) p'_i (p_j x p_k)^T over the first three, c_i being twice the area of the
    triangle of the fourth with j and k; the three areas and their sum, that of the first three, must have kept their signs,
    or all have changed them (a reflection).
    """
    both = F.pad(torch.stack([source, target]), (0, 1), value=1.0)
    around = torch.cat([both[..., :3, :], both[..., :2, :]], -2)
    rows = torch.linalg.cross(around[..., 1:4, :], around[..., 2:, :])
    areas = (rows * both[..., 3:, :]).sum(-1)
    h = both[1, ..., :3, :].transpose(-1, -2) @ ((areas[1] / areas[0])[..., None] * rows[0])
    low, high = torch.cat([areas, areas.sum(-1, keepdim=True)], -1).prod(0).aminmax(dim=-1)
    side = rows[..., :2].abs().amax((-1, -2)).prod(0)
    least = 1e-12 * side.square()  # triangles thinner than this next to the sample's own size fix nothing
    corner = h[..., 2:, 2:]
    return h / torch.where(corner == 0, 1, corner), (low > least) | (high < -least)


def squared_transfer(
    H: Float[Tensor, "*batch 3 3"], source: Float[Tensor, "*#batch n 2"], target: Float[Tensor, "*#batch n 2"]
) -> Float[Tensor, "*batch n"]:
    """`transfer_error` squared, many maps at once; NaN where H sends the source to infinity."""
    mapped = H[..., :2] @ source.transpose(-1, -2) + H[..., 2:]
    x, y = (mapped[..., :2, :] / mapped[..., 2:, :] - target.transpose(-1, -2)).unbind(-2)
    return torch.addcmul(x * x, y, y)


def refine_homography(
    H: Float[Tensor, "3 3"],
    source: Float[Tensor, "n 2"],
    target: Float[Tensor, "n 2"],
    steps: int = 5,
    threshold: float = math.inf,
    enough: float = 1e-9,
) -> Float[Tensor, "3 3"]:
    """H with a smaller sum over matches of min(distance in the second picture, threshold)^2, by Gauss-Newton.

    A step is fitted to the matches that are within the threshold before it. Ends where a step lowers the sum by less than
    its share `enough`; H comes back as it was where none lowers it.
    """
    count = len(source)
    both = torch.cat([source.T, target.T]).double()
    mean = both.mean(1)
    both = (both - mean[:, None]).view(2, 2 * count)
    # one scale for x and y of the places, or it is not their distance that is minimised
    spread = (torch.linalg.vector_norm(both, dim=1) / count**0.5).clamp_min(1e-12)
    points, places = (both / spread[:, None]).view(2, 2, count)
    points = torch.cat([points, torch.ones_like(points[:1])])
    scale, products = spread.tolist(), _products(H.device)
    to_points, from_places = _similarities(scale, mean.tolist(), H.device)
    h, limit = from_places[0] @ H.double() @ to_points[0], points.new_tensor((threshold / scale[1]) ** 2)
    h = h / torch.linalg.vector_norm(h)
    best, least = h, math.inf
    for step in range(steps + 1):
        mapped = h @ points
        w = mapped[2].reciprocal()
        u = mapped[:2] * w
        apart = u - places
        squared = torch.addcmul(apart[0] * apart[0], apart[1], apart[1])
        cost = float(torch.fmin(squared, limit).sum())
        if not cost < least:
            break
        settled = cost > (1 - enough) * least
        best, least = h, cost
        if settled or step == steps:
            break
        x = points * torch.where(squared <= limit, w, 0)
        # by rows of h the derivatives are D (x) x with D = [[1, 0, -u], [0, 1, -v]], the normal matrix is sum D'D (x) x x'
        outer = torch.cat([points[2:], u, torch.addcmul(u[0] * u[0], u[1], u[1])[None]])
        blocks = products @ (outer @ (x[:, None] * x).flatten(0, 1).T)
        pull = torch.cat([apart, -(u * apart).sum(0, keepdim=True)]) @ x.T
        # no step along h itself, which is a change of scale
        normal = torch.addr(blocks.view(3, 3, 3, 3).transpose(1, 2).reshape(9, 9), h.view(-1), h.view(-1), alpha=count)
        h = h - torch.linalg.solve_ex(normal, pull.view(-1))[0].view(3, 3)
    refined = from_places[1] @ best @ to_points[1]
    corner = float(refined[2, 2])
    return (refined / corner if abs(corner) > 1e-12 else refined).to(H.dtype)


@cache
@torch.inference_mode(False)  # kept for callers that want gradients too
def _products(device: torch.device) -> Float[Tensor, "9 4"]:
    """The entries of D'D, D = [[1, 0, -u], [0, 1, -v]], as sums of 1, u, v, u^2 + v^2."""
    rows = [[1, 0, 0, 0], [0, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]]
    rows += [[0, -1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]]
    return torch.tensor(rows, dtype=torch.float64, device=device)


def _similarities(spread: list[float], mean: list[float], device: torch.device) -> tuple[Tensor, Tensor]:
    """For points: unit to pixel and back; for places: pixel to unit and back. `mean` of x, y, x', y'."""
    (a, b), (x, y, u, v) = spread, mean
    own = [[[a, 0, x], [0, a, y], [0, 0, 1]], [[1 / a, 0, -x / a], [0, 1 / a, -y / a], [0, 0, 1]]]
    other = [[[1 / b, 0, -u / b], [0, 1 / b, -v / b], [0, 0, 1]], [[b, 0, u], [0, b, v], [0, 0, 1]]]
    matrices = torch.tensor([own, other], dtype=torch.float64, device=device)
    return matrices[0], matrices[1]


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
