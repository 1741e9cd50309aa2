r"""Chessboards: rendering them as a camera with a lens sees them, and finding their inner corners to a fraction of a pixel.

    saddle    Ixy^2 - Ixx Iyy of the smoothed picture, high where bright and dark meet crosswise; its local maxima
    crossing  on a circle about a corner the picture changes side exactly four times, and opposite sides are alike
    lattice   each corner looks along its four edges for the next one; what both ends confirm makes rows and columns
    subpixel  every gradient g at q near a corner p is at right angles to q - p, being zero or on an edge through p:
              p = (sum w g g^T)^{-1} sum w g g^T q, repeated (Förstner)

Corners come row by row. The first inner square (between corners 0, 1, columns, columns + 1) is dark where rows + columns is
odd, which settles the board's direction; else the first corner is the one nearest to the picture's upper left.

    image     c x H x W in [0, 1];  corners  (rows columns) x 2, pixels, centres at +0.5

Förstner, Gülch: A fast operator for detection and precise location of distinct points, 1987. Geiger et al.: Automatic
camera and range sensor calibration using a single shot, 2012 (corners grown to a lattice).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from oculi.geometry.camera import Camera, pixel_centers
from oculi.geometry.distortion import distortion_jacobian, normalise_pixels, undistort
from oculi.ops.gaussian_blur import gaussian_blur
from oculi.ops.sampling import fast_sample

CIRCLE = 32  # samples on it
SHRINKING = (1, 2, 4)
SUPERSAMPLE = 4
SMOOTHING = 1.0  # before gradients are taken to refine corners, pixels
BACKGROUND, DARK, BRIGHT = 0.5, 0.1, 0.9


def find_chessboard(
    image: Float[Tensor, "c h w"], rows: int, columns: int, sigma: float = 1.5, radius: float = 4.0
) -> Float[Tensor, "corners 2"] | None:
    """The `rows` x `columns` inner corners, or None where the picture does not show all of them.

    sigma: smoothing before corners are looked for; radius: of the circle about each, less than half a square; in pixels.
    """
    if min(rows, columns) < 2:
        raise ValueError(f"rows, columns: expected at least 2 inner corners each way, got {rows} x {columns}")
    if not bool(torch.isfinite(image).all()):
        raise ValueError("image: expected finite numbers, got NaN or infinity")
    grey = image.mean(0)
    for factor in SHRINKING:  # large and blurred boards show their corners in a smaller picture
        small = F.avg_pool2d(grey[None, None], factor)[0, 0]
        if min(small.shape) < 6 * radius:
            break
        smooth = gaussian_blur(small[None, None], sigma)[0, 0]
        grid = _detected(small, smooth, rows, columns, radius)
        if grid is not None:
            window = min(20.0, max(3.0, 0.35 * factor * _spacing(grid)))
            return refine_corners(grey, factor * _oriented(smooth, grid).flatten(0, 1), window)
    return None


def _detected(
    grey: Float[Tensor, "h w"], smooth: Float[Tensor, "h w"], rows: int, columns: int, radius: float
) -> Float[Tensor, "rows columns 2"] | None:
    """The corners in rows and columns, found at one scale."""
    corners, strength = _candidates(smooth, 4 * rows * columns + 100)
    if len(corners) < rows * columns:
        return None
    corners = refine_corners(grey, corners, 3.0)
    kept, directions = _crossings(smooth, corners, radius)
    if int(kept.sum()) < rows * columns:
        return None
    corners, strength = corners[kept], strength[kept]
    grid = _lattice(corners, strength, directions[kept], rows, columns)
    return None if grid is None or _spacing(corners[grid]) < 4 else corners[grid]


def refine_corners(
    grey: Float[Tensor, "h w"], corners: Float[Tensor, "n 2"], window: float = 5.0, rounds: int = 10
) -> Float[Tensor, "n 2"]:
    """Corners moved to where the edges around them cross; `window`: half its side in pixels. One that strays stays put."""
    if not len(corners):
        return corners
    kernel = grey.new_tensor([[-3.0, 0, 3], [-10, 0, 10], [-3, 0, 3]]) / 32
    smooth = gaussian_blur(
        grey[None, None], SMOOTHING
    )  # squares of g weigh edges evenly only where they are not too sharp
    padded = F.pad(smooth, (1, 1, 1, 1), mode="replicate")
    slope = F.conv2d(padded, torch.stack([kernel, kernel.T])[:, None])
    reach = math.ceil(window)
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64, device=grey.device)
    dy, dx = torch.meshgrid(steps, steps, indexing="ij")
    offsets = torch.stack([dx, dy], -1).reshape(-1, 2)
    weight = torch.exp(-offsets.square().sum(-1) / (window / 1.5) ** 2)
    start = p = corners.double()
    for _ in range(rounds):
        q = p[:, None] + offsets
        g = fast_sample(slope.double(), q.reshape(1, -1, 2))[0].T.reshape(*q.shape)
        G = torch.einsum("nki,nkj,k->nij", g, g, weight)
        right = torch.einsum("nki,nkj,nkj,k->ni", g, g, q - p[:, None], weight)
        trace = G.diagonal(dim1=-2, dim2=-1).sum(-1)
        well = torch.linalg.det(G) > 1e-6 * trace.square().clamp_min(1e-30)
        step = torch.linalg.solve(torch.where(well[:, None, None], G, torch.eye(2, dtype=G.dtype)), right)
        p = p + torch.where(well[:, None], step, 0.0).clamp(-window, window)
    strayed = (p - start).abs().amax(-1) > window
    return torch.where(strayed[:, None], start, p).to(corners)


def _candidates(smooth: Float[Tensor, "h w"], most: int) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
    """Local maxima of the saddle response, strongest first."""
    across = smooth[1:-1, 2:] - 2 * smooth[1:-1, 1:-1] + smooth[1:-1, :-2]
    down = smooth[2:, 1:-1] - 2 * smooth[1:-1, 1:-1] + smooth[:-2, 1:-1]
    mixed = (smooth[2:, 2:] - smooth[2:, :-2] - smooth[:-2, 2:] + smooth[:-2, :-2]) / 4
    saddle = F.pad(mixed.square() - across * down, (1, 1, 1, 1))
    peak = (F.max_pool2d(saddle[None, None], 7, 1, 3)[0, 0] == saddle) & (saddle > 0.01 * saddle.max().clamp_min(1e-8))
    y, x = peak.nonzero(as_tuple=True)
    strength, order = saddle[y, x].sort(descending=True)
    return torch.stack([x[order[:most]], y[order[:most]]], -1) + 0.5, strength[:most]


def _crossings(
    smooth: Float[Tensor, "h w"], corners: Float[Tensor, "n 2"], radius: float
) -> tuple[Bool[Tensor, " n"], Float[Tensor, "n 4 2"]]:
    """Which corners have four edges, opposite sides alike; and the unit vectors along these edges, in turning order."""
    angle = torch.arange(CIRCLE, dtype=corners.dtype, device=corners.device) * (2 * math.pi / CIRCLE)
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    places = corners[:, None] + radius * circle
    value = fast_sample(smooth[None, None], places.reshape(1, -1, 2))[0, 0].view(len(corners), CIRCLE).to(corners)
    value = value - (value.amax(1, keepdim=True) + value.amin(1, keepdim=True)) / 2
    after = value.roll(-1, 1)
    change = (value > 0) != (after > 0)
    alike = (value * value.roll(CIRCLE // 2, 1)).mean(1) > 0.3 * value.square().mean(1)
    size = corners.new_tensor([smooth.shape[1], smooth.shape[0]])
    inside = ((corners >= radius) & (corners <= size - radius)).all(1)
    kept = (change.sum(1) == 4) & alike & (value.amax(1) > 0.01) & inside
    index = change.to(torch.int8).topk(4, 1).indices.sort(1).values
    before, behind = value.gather(1, index), after.gather(1, index)
    gap = torch.where(behind == before, torch.ones_like(before), before - behind)
    crossing = (index + before / gap) * (2 * math.pi / CIRCLE)
    return kept, torch.stack([crossing.cos(), crossing.sin()], -1)


def _lattice(
    corners: Float[Tensor, "n 2"],
    strength: Float[Tensor, " n"],
    directions: Float[Tensor, "n 4 2"],
    rows: int,
    columns: int,
) -> Int[Tensor, "rows columns"] | None:
    """Numbers of the corners in rows and columns, turning from x to y as the picture does; None where none is complete."""
    neighbour, opposite = _neighbours(corners, directions)
    tried = torch.zeros(len(corners), dtype=torch.bool, device=corners.device)
    for _ in range(8):  # several boards or a false seed
        degree = (neighbour >= 0).sum(1) * ~tried
        seed = int((degree * 1e6 + strength / strength.max()).argmax())
        if int(degree[seed]) == 0:
            return None
        place, known = _grown(neighbour, opposite, seed)
        tried |= known
        found = _rectangle(place, known, strength, rows, columns)
        if found is not None:
            return found
    return None


def _neighbours(
    corners: Float[Tensor, "n 2"], directions: Float[Tensor, "n 4 2"]
) -> tuple[Int[Tensor, "n 4"], Int[Tensor, "n 4"]]:
    """The next corner along each edge, -1 where there is none or it does not look back, and which of its edges looks back."""
    difference = corners[None] - corners[:, None]  # i to j
    along = torch.einsum("ijd,ikd->ikj", difference, directions)
    across = (
        difference[:, None, :, 0] * directions[..., 1, None] - difference[:, None, :, 1] * directions[..., 0, None]
    ).abs()
    distance = torch.where((along > 2) & (across < 0.25 * along), along, math.inf)
    nearest, index = distance.min(-1)
    back = torch.einsum("ikd,ikmd->ikm", directions, directions[index]).argmin(-1)
    returned = index[index, back]
    here = torch.arange(len(corners), device=corners.device)[:, None]
    joined = torch.isfinite(nearest) & (returned == here) & torch.isfinite(nearest[index, back])
    return torch.where(joined, index, -1), back


def _grown(
    neighbour: Int[Tensor, "n 4"], opposite: Int[Tensor, "n 4"], seed: int
) -> tuple[Int[Tensor, "n 2"], Bool[Tensor, " n"]]:
    """Row and column of every corner joined to the seed, a ring of neighbours at a time."""
    step = torch.tensor([[0, 1], [1, 0], [0, -1], [-1, 0]], device=neighbour.device)  # row, column; x before y
    count = len(neighbour)
    place = neighbour.new_zeros(count, 2)
    turn = neighbour.new_zeros(count)  # edge k of this corner is direction (k + turn) % 4 of the lattice
    known = torch.zeros(count, dtype=torch.bool, device=neighbour.device)
    known[seed] = True
    edges = torch.arange(4, device=neighbour.device)
    for _ in range(count):
        heading = (edges + turn[:, None]) % 4
        fresh = (neighbour >= 0) & known[:, None] & ~known[neighbour.clamp_min(0)]
        i, k = fresh.nonzero(as_tuple=True)
        if not len(i):
            break
        j = neighbour[i, k]
        place[j] = place[i] + step[heading[i, k]]
        turn[j] = (heading[i, k] + 2 - opposite[i, k]) % 4
        known[j] = True
    heading = (edges + turn[:, None]) % 4
    both = (neighbour >= 0) & known[:, None]
    right = (place[neighbour.clamp_min(0)] == place[:, None] + step[heading]).all(-1)
    return place, known & ((both & right).sum(1) > (both & ~right).sum(1))


def _rectangle(
    place: Int[Tensor, "n 2"], known: Bool[Tensor, " n"], strength: Float[Tensor, " n"], rows: int, columns: int
) -> Int[Tensor, "rows columns"] | None:
    """The strongest full window of the lattice, either way round."""
    numbers = known.nonzero()[:, 0]
    numbers = numbers[strength[numbers].argsort()]  # of two at one place the stronger stays
    at = place[numbers]
    at = at - at.amin(0)
    height, width = (at.amax(0) + 1).tolist()
    table = torch.full((height, width), -1, dtype=torch.int64, device=place.device)
    table[at[:, 0], at[:, 1]] = numbers
    best, most = None, -math.inf
    for turned, (h, w) in enumerate([(rows, columns), (columns, rows)]):
        if height < h or width < w or (turned and rows == columns):
            continue
        windows = table.unfold(0, h, 1).unfold(1, w, 1).flatten(0, 1)
        score = torch.where(windows >= 0, strength[windows.clamp_min(0)], -math.inf).sum((-1, -2))
        if float(score.max()) > most:
            chosen = windows[int(score.argmax())]
            best, most = torch.rot90(chosen, 1) if turned else chosen, float(score.max())
    return best


def _spacing(grid: Float[Tensor, "rows columns 2"]) -> float:
    """The shortest side of a square."""
    sides = [torch.linalg.norm(grid.diff(dim=axis), dim=-1).min() for axis in (0, 1)]
    return float(torch.stack(sides).min())


def _oriented(smooth: Float[Tensor, "h w"], grid: Float[Tensor, "rows columns 2"]) -> Float[Tensor, "rows columns 2"]:
    """The board turned so that its first square is dark or, where its colours do not tell, to the upper left."""
    rows, columns = grid.shape[:2]
    if (rows + columns) % 2:
        middle = (grid[:-1, :-1] + grid[1:, :-1] + grid[:-1, 1:] + grid[1:, 1:]) / 4
        value = fast_sample(smooth[None, None], middle.reshape(1, -1, 2).to(smooth))[0, 0].view(rows - 1, columns - 1)
        y, x = torch.meshgrid(torch.arange(rows - 1), torch.arange(columns - 1), indexing="ij")
        sign = (1 - 2 * ((x + y) % 2)).to(value)
        return grid if float((sign * (value - value.mean())).sum()) < 0 else grid.flip(0, 1)
    turns = [grid, grid.flip(0, 1)]
    if rows == columns:
        turns += [torch.rot90(grid, 1), torch.rot90(grid, 3)]
    return min(turns, key=lambda turned: float(turned[0, 0].sum()))


# rendering -----------------------------------------------------------------------------------------------------------


def board_corners(rows: int, columns: int, square: float) -> Float[Tensor, "corners 3"]:
    """Inner corners in the board's own frame, row by row: x along columns, y along rows, z = 0; float64."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return square * torch.stack([x, y, torch.zeros_like(x)], -1).reshape(-1, 3).double()


def render_chessboard(
    camera: Camera, distortion: Float[Tensor, " 5"], rows: int, columns: int, square: float
) -> Float[Tensor, "views 1 h w"]:
    """Pictures of the board by a batch of cameras with one lens and one K, each pixel the mean of 4 x 4 rays.

    The board has one square more each way than inner corners and a bright margin of one square; grey around it.
    """
    K, lens = camera.K[0].double(), distortion.double()
    pixels = pixel_centers(camera.height, camera.width).double()
    ideal = undistort(normalise_pixels(pixels, K), lens)
    slope = torch.linalg.inv(distortion_jacobian(torch.nan_to_num(ideal), lens))  # ideal point per observed one
    total = torch.zeros(len(camera), len(pixels), dtype=torch.float64)
    shifts = (torch.arange(SUPERSAMPLE, dtype=torch.float64) + 0.5) / SUPERSAMPLE - 0.5
    rotation, eye = camera.R.double().transpose(-1, -2), camera.center.double()
    for dx in shifts.tolist():
        for dy in shifts.tolist():
            moved = ideal + slope @ torch.tensor([dx / float(K[0, 0]), dy / float(K[1, 1])], dtype=torch.float64)
            ray = F.pad(moved, (0, 1), value=1.0) @ rotation.transpose(-1, -2)
            depth = -eye[:, None, 2] / ray[..., 2]
            place = (eye[:, None, :2] + depth[..., None] * ray[..., :2]) / square
            total += _painted(place, depth, rows, columns)
    return (total / SUPERSAMPLE**2).view(-1, 1, camera.height, camera.width).float()


def _painted(place: Float[Tensor, "*n 2"], depth: Float[Tensor, "*n"], rows: int, columns: int) -> Float[Tensor, "*n"]:
    """Brightness of the board's plane at places counted in squares from the first inner corner."""
    x, y = place.unbind(-1)
    dark = (x.floor() + y.floor()) % 2 == 0
    board = (x >= -1) & (x < columns) & (y >= -1) & (y < rows)
    margin = (x >= -2) & (x < columns + 1) & (y >= -2) & (y < rows + 1) & (depth > 0)
    value = torch.where(board & dark, DARK, BRIGHT)
    return torch.where(margin, value, torch.full_like(value, BACKGROUND)).to(place)
