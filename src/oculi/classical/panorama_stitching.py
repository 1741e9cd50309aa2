r"""Panorama stitching: pictures taken from one place, or of one plane, become one large picture.

    features -> matches of every pair, a homography each (`agree`) -> the tree of the best pairs -> H_i, picture i to the
    middle one -> all H_i adjusted together -> overlaps not matched yet: matched where they must be, adjusted again
    -> canvas, gains, blending

The middle picture is the one from which the others are fewest pairs away. Adjusting minimises, over all pairs and their
matches at once, so that errors do not pile up along the tree,

    sum_{i, j} sum_m rho( ||H_j^-1 H_i p_m - q_m|| ) + the same from j to i        rho Huber's, 8 numbers per H

by Levenberg-Marquardt. Gains make the means m of overlaps of N pixels equal:

    sum_{i, j} N_ij (g_i m_ij - g_j m_ji)^2 + N_ij (1 - g_i)^2 / 100

    feather     canvas = sum_i w_i I_i / sum_i w_i         w falls linearly from a picture's middle to its edges
    multiband   each pixel belongs to the picture with the largest w (the seam lies between); band k of the pictures,
                I * G(s 2^(k-1)) - I * G(s 2^k), is blended by that map blurred by s 2^k: coarse light melts over a long
                way, fine texture over a short one, so that nothing doubles and no seam shows

Pictures that overlap no other are an error that names them.

    pictures   each 3 (or 1) x H x W in [0, 1]
    canvas     3 (or 1) x H' x W';  seen: by how many pictures each pixel is seen

Differs from the paper: homographies of a plane in place of rotations with focal lengths, so that views of more than
about 120 degrees do not fit; bands are kept at full size.

Brown, Lowe: Automatic panoramic image stitching using invariant features, IJCV 74(1), 2007. Burt, Adelson: A
multiresolution spline with application to image mosaics, ACM Transactions on Graphics 2(4), 1983.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oculi.classical.image_registration import Agreement, agree, grey_picture, is_sane
from oculi.classical.ransac import RANSAC
from oculi.classical.sift import SIFT, photographs
from oculi.geometry.homography import apply_homography, solve_dlt, warp_perspective
from oculi.ops.gaussian_blur import gaussian_blur
from oculi.predictions import Keypoints

MOST_MATCHES = 400  # of a pair that take part in the adjustment
FEWEST, REACH = 8, 30.0  # matches of a pair that others vouch for, and how many pixels from where they say it may be
LARGEST = 12.0  # the canvas's area by the pictures' together


@dataclass
class Panorama:
    """The large picture, how each small one lies in it, and which saw what."""

    canvas: Float[Tensor, "channels height width"]
    seen: Int[Tensor, "height width"]
    owner: Int[Tensor, "height width"]  # the picture of largest weight, -1 where there is none
    homographies: Float[Tensor, "pictures 3 3"]  # each picture's pixels to the canvas's
    gains: Float[Tensor, " pictures"]
    middle: int
    pairs: list[tuple[int, int]]  # that were matched


class PanoramaStitching:
    """Stitches by SIFT, RANSAC and joint adjustment; nothing is learned.

    blend: `multiband` or `feather`. bands, sigma: of the multi-band blend, pixels. gains: even out exposure.
    """

    def __init__(
        self,
        blend: Literal["multiband", "feather"] = "multiband",
        bands: int = 4,
        sigma: float = 3.0,
        gains: bool = True,
        ratio: float = 0.8,
        threshold: float = 2.0,
        inliers: int = 8,
        max_keypoints: int = 3000,
        seed: int = 0,
    ):
        if blend not in ("multiband", "feather"):
            raise ValueError(f"blend: expected multiband or feather, got {blend!r}")
        if bands < 1 or not sigma > 0:
            raise ValueError(f"bands, sigma: expected at least 1 and a positive number, got {bands} and {sigma}")
        if not 0 < ratio <= 1 or not threshold > 0 or inliers < 5:
            raise ValueError(
                f"ratio, threshold, inliers: expected (0, 1], > 0, >= 5, got {ratio}, {threshold}, {inliers}"
            )
        self.blend, self.bands, self.sigma, self.gains, self.seed = blend, bands, sigma, gains, seed
        self.ratio, self.threshold, self.inliers = ratio, threshold, inliers
        self.features = SIFT(contrast=0.02, max_keypoints=max_keypoints, root=True)  # poor overlaps count on faint ones

    @torch.no_grad()
    def stitch(self, pictures: Sequence[Float[Tensor, "channels _h _w"]]) -> Panorama:
        """One canvas of two or more pictures. Raises ValueError where some overlap no other, or the views differ too much."""
        if len(pictures) < 2:
            raise ValueError(f"pictures: expected at least two, got {len(pictures)}")
        if len({p.shape[0] for p in pictures}) > 1:
            raise ValueError(f"pictures: expected one number of channels, got {[p.shape[0] for p in pictures]}")
        found = [self.features.detect(grey_picture(p, f"pictures[{i}]")) for i, p in enumerate(pictures)]
        pairs: dict[tuple[int, int], Agreement] = {}
        for i, j in combinations(range(len(pictures)), 2):
            try:
                pair = agree(found[i], found[j], self.ratio, self.threshold, self.inliers, self.seed)
            except ValueError:
                continue  # these two have nothing in common; others may
            if is_sane(pair.H, *pictures[i].shape[1:]):
                pairs[i, j] = pair
        middle, parents = _tree(len(pictures), pairs)
        H = _chained(parents, middle, pairs)
        H = _adjusted(H, middle, pairs)
        more = self._guided(found, H, pairs)
        if more:
            pairs |= more
            H = _adjusted(H, middle, pairs)
        H, height, width = _placed(H, pictures)
        warped, weights = zip(*(_on_canvas(p, h, height, width) for p, h in zip(pictures, H)))
        layers, weight = torch.stack(warped), torch.stack(weights)
        gains = _gains(layers, weight) if self.gains else torch.ones(len(pictures))
        layers = layers * gains.view(-1, 1, 1, 1)
        canvas = (
            feathered(layers, weight) if self.blend == "feather" else multiband(layers, weight, self.bands, self.sigma)
        )
        seen = (weight > 0).sum(0)
        owner = torch.where(seen > 0, weight.argmax(0), -1)
        return Panorama(canvas.clamp(0, 1), seen, owner, H, gains, middle, list(pairs))

    def _guided(
        self, found: list[Keypoints], H: Float[Tensor, "n 3 3"], pairs: dict[tuple[int, int], Agreement]
    ) -> dict[tuple[int, int], Agreement]:
        """Pairs with too few matches to be sure of by themselves, matched near where the others say that they must."""
        more = {}
        for i, j in combinations(range(len(found)), 2):
            a, b = found[i], found[j]
            if (i, j) in pairs or min(len(a.points), len(b.points)) < FEWEST:
                continue
            p, q = a.points.double(), b.points.double()
            near = torch.cdist(apply_homography(torch.linalg.inv(H[j]) @ H[i], p).nan_to_num(-1e6), q) <= REACH
            apart = torch.where(near, torch.cdist(a.descriptors, b.descriptors), math.inf)
            best, index = apart.min(1)
            rival = apart.scatter(1, index[:, None], math.inf).amin(1)
            mutual = apart.argmin(0)[index] == torch.arange(len(p))
            kept = mutual & best.isfinite() & (best < 0.9 * rival) & (best < 0.8)
            if int(kept.sum()) < FEWEST:
                continue
            try:
                agreed = RANSAC(threshold=self.threshold, seed=self.seed).fit(p[kept], q[index[kept]])
            except ValueError:
                continue
            if int(agreed.inliers.sum()) >= max(FEWEST, int(kept.sum()) / 2):
                first, second = p[kept][agreed.inliers], q[index[kept]][agreed.inliers]
                more[i, j] = Agreement(agreed.model, first, second, int(kept.sum()))
        return more


# where the pictures lie ----------------------------------------------------------------------------------------------


def _tree(count: int, pairs: dict[tuple[int, int], Agreement]) -> tuple[int, list[int]]:
    """The middle picture and each picture's neighbour on its way there, along the tree of the most inliers."""
    group = list(range(count))
    neighbours: list[list[int]] = [[] for _ in range(count)]
    for i, j in sorted(pairs, key=lambda pair: -len(pairs[pair].first)):
        if group[i] != group[j]:
            neighbours[i].append(j)
            neighbours[j].append(i)
            group = [group[i] if g == group[j] else g for g in group]
    if len(set(group)) > 1:
        largest = max(set(group), key=group.count)
        alone = [i for i in range(count) if group[i] != largest]
        raise ValueError(f"pictures: {', '.join(map(str, alone))} overlap none of the others")
    ways = [_walk(start, neighbours) for start in range(count)]
    middle = min(range(count), key=lambda start: (max(ways[start][1]), sum(ways[start][1])))
    return middle, ways[middle][0]


def _walk(start: int, neighbours: list[list[int]]) -> tuple[list[int], list[int]]:
    """From `start` breadth first: each picture's parent (its own is itself) and how many steps away it is."""
    parent, steps, queue = [-1] * len(neighbours), [0] * len(neighbours), [start]
    parent[start] = start
    for here in queue:
        for other in neighbours[here]:
            if parent[other] < 0:
                parent[other], steps[other] = here, steps[here] + 1
                queue.append(other)
    return parent, steps


def _chained(parents: list[int], middle: int, pairs: dict[tuple[int, int], Agreement]) -> Float[Tensor, "n 3 3"]:
    """Each picture's map to the middle one, pair by pair along the tree."""
    made: dict[int, Tensor] = {middle: torch.eye(3, dtype=torch.float64)}

    def to_middle(i: int) -> Tensor:
        if i not in made:
            j = parents[i]
            step = pairs[i, j].H if (i, j) in pairs else torch.linalg.inv(pairs[j, i].H)
            chained = to_middle(j) @ step
            made[i] = chained / chained[2, 2]
        return made[i]

    return torch.stack([to_middle(i) for i in range(len(parents))])


def _adjusted(
    H: Float[Tensor, "n 3 3"], middle: int, pairs: dict[tuple[int, int], Agreement], rounds: int = 15
) -> Float[Tensor, "n 3 3"]:
    """All maps but the middle one's, improved together by Levenberg-Marquardt."""
    scale = torch.diag(torch.tensor([1e-3, 1e-3, 1.0], dtype=H.dtype))  # numbers of one size: thousands of pixels
    unscale = torch.linalg.inv(scale)
    free = [i for i in range(len(H)) if i != middle]
    data = [(i, j, p.first[:MOST_MATCHES], p.second[:MOST_MATCHES]) for (i, j), p in pairs.items()]

    def misses(change: Float[Tensor, " numbers"]) -> Float[Tensor, " residuals"]:
        full = torch.cat([change.view(-1, 8), change.new_zeros(len(free), 1)], 1).view(-1, 3, 3)
        moved = list(H)
        for index, delta in zip(free, full):
            moved[index] = H[index] @ (unscale @ (torch.eye(3, dtype=H.dtype) + delta) @ scale)
        parts = []
        for i, j, p, q in data:
            across = torch.linalg.inv(moved[j]) @ moved[i]
            parts += [apply_homography(across, p) - q, apply_homography(torch.linalg.inv(across), q) - p]
        return torch.cat(parts).flatten()

    def cost(residuals: Tensor) -> float:
        size = residuals.view(-1, 2).norm(dim=1)
        return float(torch.where(size <= 1, size.square() / 2, size - 0.5).sum())

    change, damping = H.new_zeros(8 * len(free)), 1e-4
    residuals = misses(change)
    for _ in range(rounds):
        jacobian = torch.func.jacfwd(misses)(change)
        weight = residuals.view(-1, 2).norm(dim=1).clamp_min(1).reciprocal().repeat_interleave(2)
        normal, right = jacobian.T @ (weight[:, None] * jacobian), jacobian.T @ (weight * residuals)
        step = torch.linalg.solve(normal + damping * torch.diag(normal.diagonal() + 1e-12), right)
        new = misses(change - step)
        if not cost(new) < cost(residuals):
            damping *= 10
            if damping > 1e4:
                break
            continue
        gained = 1 - cost(new) / max(cost(residuals), 1e-300)
        change, residuals, damping = change - step, new, damping / 10
        if gained < 1e-6:
            break
    full = torch.cat([change.view(-1, 8), change.new_zeros(len(free), 1)], 1).view(-1, 3, 3)
    better = H.clone()
    better[free] = H[free] @ (unscale @ (torch.eye(3, dtype=H.dtype) + full) @ scale)
    return better / better[:, 2:, 2:]


def _placed(H: Float[Tensor, "n 3 3"], pictures: Sequence[Tensor]) -> tuple[Float[Tensor, "n 3 3"], int, int]:
    """The maps moved so that all pictures lie in a canvas that begins at 0, and its height and width."""
    corners = []
    for index, (h, picture) in enumerate(zip(H, pictures)):
        height, width = picture.shape[1:]
        if not is_sane(h, height, width, most=LARGEST):
            raise ValueError(
                f"pictures: {index} looks too far away from the middle picture to lie in one plane with it"
            )
        corners.append(apply_homography(h, h.new_tensor([[0, 0], [width, 0], [width, height], [0, height]])))
    every = torch.cat(corners)
    low, high = every.amin(0).floor(), every.amax(0).ceil()
    width, height = (int(v) for v in high - low)
    if width * height > LARGEST * sum(p[0].numel() for p in pictures):
        raise ValueError(
            f"pictures: the canvas would be {width} x {height} pixels: the views differ too much for a plane"
        )
    shift = torch.eye(3, dtype=H.dtype)
    shift[:2, 2] = -low
    return shift @ H, height, width


# how they become one -------------------------------------------------------------------------------------------------


def _on_canvas(picture: Tensor, H: Tensor, height: int, width: int) -> tuple[Tensor, Float[Tensor, "height width"]]:
    """The picture warped, its edge repeated outside, and its weight: 1 in its middle, 0 at its edges and outside."""
    old_height, old_width = picture.shape[1:]
    warped, inside = warp_perspective(picture, H, height, width)
    x = 1 - (2 * (torch.arange(old_width) + 0.5) / old_width - 1).abs()
    y = 1 - (2 * (torch.arange(old_height) + 0.5) / old_height - 1).abs()
    weight, _ = warp_perspective((y[:, None] * x).to(picture)[None], H, height, width, mode="bilinear")
    return warped, torch.where(inside, weight[0].clamp_min(1e-4), 0)


def _gains(layers: Float[Tensor, "n c h w"], weight: Float[Tensor, "n h w"]) -> Float[Tensor, " n"]:
    """One factor per picture that makes the means of overlaps equal, without all going dark; solved in closed form."""
    seen, grey = (weight > 0).double(), layers.mean(1).double()
    flat = seen.flatten(1)
    shared = flat @ flat.T
    means = (grey.flatten(1) * flat) @ flat.T / shared.clamp_min(1)  # [i, j]: picture i where j is seen too
    shared = (shared / shared.max()).fill_diagonal_(0)
    system = -2 * shared * means * means.T
    system = system + torch.diag((2 * shared * means.square() + shared / 100).sum(1))
    return torch.linalg.solve(system, (shared / 100).sum(1)).to(layers)


def feathered(layers: Float[Tensor, "n c h w"], weight: Float[Tensor, "n h w"]) -> Float[Tensor, "c h w"]:
    """The weighted mean; 0 where no picture is seen."""
    return (layers * weight[:, None]).sum(0) / weight.sum(0).clamp_min(1e-12)


def multiband(
    layers: Float[Tensor, "n c h w"], weight: Float[Tensor, "n h w"], bands: int = 4, sigma: float = 3.0
) -> Float[Tensor, "c h w"]:
    """Band by band, coarse ones blended over a long way and fine ones over a short one; 0 where no picture is seen."""
    seen = weight > 0
    own = torch.zeros_like(weight).scatter_(0, weight.argmax(0, keepdim=True), 1.0) * seen
    covered = seen.any(0)
    rest, share, canvas = layers, own[:, None], torch.zeros_like(layers[0])
    for band in range(bands):
        last = band == bands - 1
        step = sigma * 2**band
        smooth = rest if last else gaussian_blur(rest, step)
        share = gaussian_blur(share, step)
        mask = share * seen[:, None]
        detail = rest if last else rest - smooth
        canvas = canvas + (detail * mask).sum(0) / mask.sum(0).clamp_min(1e-12)
        rest = smooth
    return canvas * covered


# the experiment ------------------------------------------------------------------------------------------------------


def four_views(
    photo: Float[Tensor, "c h w"], size: int, generator: torch.Generator, light: float = 0.0
) -> tuple[list[Tensor], Float[Tensor, "4 3 3"]]:
    """Views of the photograph's four quarters, overlapping, warped at random, and their maps to the photograph.

    light: how much brighter or darker one is than the other, at most.
    """
    height, width = photo.shape[1:]
    base = size * torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64)
    views, maps = [], []
    for top in (0, 1):
        for left in (0, 1):
            low = torch.tensor([left * (width - size), top * (height - size)], dtype=torch.float64)
            shifts = 0.05 * size * torch.rand(4, 2, generator=generator, dtype=torch.float64)
            inwards = torch.tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]])
            H, _ = solve_dlt(base, base + low + shifts * inwards)
            view, _ = warp_perspective(photo, torch.linalg.inv(H), size, size)
            gain = 1 + light * (2 * float(torch.rand((), generator=generator)) - 1)
            views.append((view * gain).clamp(0, 1))
            maps.append(H)
    return views, torch.stack(maps)


def seam_step(panorama: Panorama, truth: Float[Tensor, "c h w"], where: Tensor) -> float:
    """Mean change across the seams that the truth does not have, in grey levels of 255."""
    steps = []
    difference = (panorama.canvas - truth).mean(0)
    for axis in (0, 1):
        n = difference.shape[axis] - 1
        jump = difference.diff(dim=axis).abs()
        owner, inside = panorama.owner, where
        seam = owner.narrow(axis, 0, n) != owner.narrow(axis, 1, n)
        steps.append(jump[seam & inside.narrow(axis, 0, n) & inside.narrow(axis, 1, n)])
    return 255 * float(torch.cat(steps).mean())


def experiment(
    size: int = 384, view: int = 250, photos: int = 5, light: float = 0.0, seed: int = 0
) -> dict[str, float]:
    """Photographs cut into four overlapping warped views and stitched again, compared with the photographs.

    PSNR in dB where at least two views are seen; how much the seams step beyond the photograph's own, in grey levels.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for photo in photographs(size, photos):
        views, maps = four_views(photo, view, generator, light)
        made = PanoramaStitching(seed=seed).stitch(views)
        to_canvas = made.homographies[made.middle] @ torch.linalg.inv(maps[made.middle])
        truth, inside = warp_perspective(photo, to_canvas, *made.canvas.shape[1:])
        where = (made.seen >= 2) & inside
        worst = (made.canvas - truth.clamp(0, 1))[:, where].square().mean()
        corners = torch.tensor([[0, 0], [view, 0], [view, view], [0, view]], dtype=torch.float64)
        errors = apply_homography(made.homographies, corners.expand(4, 4, 2)) - apply_homography(
            to_canvas @ maps, corners.expand(4, 4, 2)
        )
        rows.append((-10 * math.log10(float(worst)), seam_step(made, truth, where), float(errors.norm(dim=-1).mean())))
    psnr, seam, corner = torch.tensor(rows, dtype=torch.float64).unbind(1)
    return {
        "overlap_psnr": float(psnr.mean()),
        "worst_overlap_psnr": float(psnr.min()),
        "seam_step": float(seam.mean()),
        "worst_seam_step": float(seam.max()),
        "corner_error": float(corner.mean()),
    }
