r"""Multi-view stereo: dense depth from several pictures with known cameras, by a plane sweep and agreement across views.

A view's pixel p at depth d lies in a source view with relative pose [R|t] at

    q ~ K_s (R K^{-1} p + t / d)                                plane sweep: d over planes even in 1/d
    ZNCC(a, b) = cov(a, b) / sqrt(var a  var b)                 over a window; 1 where b is a brighter, duller a

The score of a plane is the mean of its best sources, so that a source that does not see the pixel has no say; the best
plane wins, refined by a parabola through its neighbours. Then the views vote: a depth stays where at least `agreeing`
other views, asked for their own depth at the place where it projects to, send it back to within a pixel and a hundredth
of the depth; depths that agree are averaged, and become one cloud of points.

    images   views x channels x H x W in [0, 1];  cameras: one per view;  depth in the cameras' unit along z
    score    ZNCC of the chosen plane;  valid: textured, alike and agreed upon

Photo-consistency has two blind spots: windows without texture, where every plane is as good, and highlights or
transparency, which look different from every side. The first is refused by the variance of the window, both by the vote;
radiance fields do not have them, being fitted to all pictures at once (`nerf`).

Differs from the paper: windows and fusion, where Collins counts edges that meet in voxels of a plane.

Collins: A space-sweep approach to true multi-image matching, CVPR 1996; Gallup et al.: Real-time plane-sweeping stereo
with multiple sweeping directions, CVPR 2007 (best sources).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from oculi.data.world.scenes import Knobs
from oculi.data.world.views import pictures
from oculi.geometry.camera import Camera, pixel_centers
from oculi.types import Sample

SWEPT = 1 << 21  # pixels of all planes that are warped at a time


@dataclass
class DenseReconstruction:
    """A depth map per view, the score of the winning plane, where to believe it, and the cloud of all that is believed."""

    depth: Float[Tensor, "views height width"]
    score: Float[Tensor, "views height width"]
    valid: Bool[Tensor, "views height width"]
    points: Float[Tensor, "p 3"]
    colours: Float[Tensor, "p channels"]


def box_mean(maps: Float[Tensor, "n height width"], window: int) -> Float[Tensor, "n height width"]:
    """Mean over window x window, the edge repeated."""
    half = window // 2
    padded = F.pad(maps[None], (half, half, half, half), mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (1, window), 1), (window, 1), 1)[0]


def zncc(
    first: Float[Tensor, "height width"], second: Float[Tensor, "n height width"], window: int
) -> Float[Tensor, "n height width"]:
    """Zero-mean normalised cross-correlation, in [-1, 1], of the windows round each pixel; 0 where one has one colour."""
    first, second = first - first.mean(), second - first.mean()
    a, aa = box_mean(torch.stack([first, first.square()]), window)
    b, bb, ab = (box_mean(m, window) for m in (second, second.square(), first * second))
    spread = (aa - a.square()).clamp_min(0) * (bb - b.square()).clamp_min(0)
    return torch.where(spread > 1e-10, (ab - a * b) / spread.clamp_min(1e-10).sqrt(), 0.0).clamp(-1, 1)


class MultiViewStereo:
    """Plane sweep per view, then fusion; nothing is learned.

    near, far: depths swept, in the cameras' unit. planes: how many. window: side of the compared windows, pixels, odd.
    sources: nearest views that each one is compared with. kept: best of them that count. score: least ZNCC.
    texture: least standard deviation of a window. agreeing: views that must confirm a depth. tolerance: relative
    difference of depths that still agree. reprojection: pixels likewise.
    """

    def __init__(
        self,
        near: float = 3.0,
        far: float = 20.0,
        planes: int = 128,
        window: int = 7,
        sources: int = 4,
        kept: int = 2,
        score: float = 0.6,
        texture: float = 0.015,
        agreeing: int = 2,
        tolerance: float = 0.01,
        reprojection: float = 1.0,
    ):
        if not 0 < near < far:
            raise ValueError(f"near, far: expected 0 < near < far, got {near} and {far}")
        if planes < 3 or window < 3 or window % 2 == 0:
            raise ValueError(f"planes, window: expected at least 3, the window odd, got {planes} and {window}")
        if not 1 <= kept <= sources or agreeing < 0:
            raise ValueError(f"kept, sources, agreeing: expected 1 <= kept <= sources, agreeing >= 0, "
                             f"got {kept}, {sources}, {agreeing}")  # fmt: skip
        if min(tolerance, reprojection) <= 0 or texture < 0:
            raise ValueError(
                f"tolerance, reprojection, texture: expected > 0, > 0, >= 0, got {tolerance}, {reprojection}, {texture}"
            )
        self.near, self.far, self.planes, self.window = near, far, planes, window
        self.sources, self.kept, self.score, self.texture = sources, kept, score, texture
        self.agreeing, self.tolerance, self.reprojection = agreeing, tolerance, reprojection

    def reconstruct(self, images: Float[Tensor, "views channels height width"], cameras: Camera) -> DenseReconstruction:
        """Depth of every view and the cloud. Raises ValueError for fewer than two views, views that all stand in one
        place, NaN, or pictures of another size than the cameras say."""
        self._check(images, cameras)
        neighbours = [self._neighbours(cameras, view) for view in range(len(images))]
        grey = images.mean(1)
        swept = [self._sweep(grey, cameras, view, chosen) for view, chosen in enumerate(neighbours)]
        depth, score = (torch.stack(maps) for maps in zip(*swept))
        spread = (box_mean(grey.square(), self.window) - box_mean(grey, self.window).square()).clamp_min(0).sqrt()
        sure = (score >= self.score) & (spread >= self.texture)
        return self._fused(images, cameras, depth, score, sure)

    def _check(self, images: Tensor, cameras: Camera) -> None:
        if images.ndim != 4 or len(images) < 2:
            raise ValueError(
                f"images: expected at least two views, views x channels x H x W, got {tuple(images.shape)}"
            )
        if cameras.K.ndim != 3 or len(cameras) != len(images):
            raise ValueError(f"cameras: expected {len(images)}, one per view, got K of shape {tuple(cameras.K.shape)}")
        if images.shape[2:] != (cameras.height, cameras.width):
            raise ValueError(f"images: expected {cameras.height} x {cameras.width}, got {tuple(images.shape[2:])}")
        if not bool(torch.isfinite(images).all() and torch.isfinite(cameras.world_to_camera).all()):
            raise ValueError("images, cameras: expected finite numbers, got NaN or infinity")

    def _neighbours(self, cameras: Camera, view: int) -> list[int]:
        """The nearest views that stand elsewhere and look the same way."""
        distance = torch.linalg.norm(cameras.center - cameras.center[view], dim=-1)
        facing = cameras.R[:, 2] @ cameras.R[view, 2]
        useful = (distance > 1e-3 * self.near) & (facing > 0.5)
        if not bool(useful.any()):
            raise ValueError(f"cameras: no other view stands elsewhere than view {view} and looks the same way")
        order = torch.where(useful, distance, torch.inf).argsort()
        return order[: min(self.sources, int(useful.sum()))].tolist()

    # plane sweep -----------------------------------------------------------------------------------------------------

    def _sweep(
        self, grey: Float[Tensor, "views h w"], cameras: Camera, view: int, sources: list[int]
    ) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
        """Depth of the best plane per pixel, between planes by a parabola, and its score."""
        height, width = grey.shape[1:]
        inverse = torch.linspace(1 / self.far, 1 / self.near, self.planes, device=grey.device)
        at_once = max(1, SWEPT // (height * width))
        kept = min(self.kept, len(sources))
        volume = torch.cat([
            torch.stack([self._likeness(grey, cameras, view, s, part) for s in sources]).topk(kept, 0).values.mean(0)
            for part in inverse.split(at_once)
        ])  # fmt: skip
        score, best = volume.max(0)
        inner = best.clamp(1, self.planes - 2)
        left, middle, right = (volume.gather(0, (inner + k)[None])[0] for k in (-1, 0, 1))
        bend = (left - 2 * middle + right).clamp_max(-1e-6)
        shift = torch.where(best == inner, (0.5 * (left - right) / bend).clamp(-0.5, 0.5), 0.0)
        return 1 / (inverse[best] + shift * (inverse[1] - inverse[0])), score

    def _likeness(
        self, grey: Tensor, cameras: Camera, view: int, source: int, inverse: Float[Tensor, " planes"]
    ) -> Float[Tensor, "planes h w"]:
        """ZNCC of the view with the source seen through each plane; -1 where a plane leaves the source's picture."""
        height, width = grey.shape[1:]
        there = warped_places(cameras[view], cameras[source], inverse)
        margin = self.window // 2
        size = there.new_tensor([width, height])
        inside = ((there > margin) & (there < size - margin)).all(-1)
        grid = (there * (2 / size) - 1).nan_to_num(2, 2, -2).clamp(-2, 2)
        seen = F.grid_sample(
            grey[source].expand(len(inverse), 1, -1, -1), grid, padding_mode="border", align_corners=False
        )
        return torch.where(inside, zncc(grey[view], seen[:, 0], self.window), -1.0)

    # fusion ----------------------------------------------------------------------------------------------------------

    def _fused(
        self, images: Tensor, cameras: Camera, depth: Tensor, score: Tensor, sure: Bool[Tensor, "views h w"]
    ) -> DenseReconstruction:
        """What enough other views confirm, averaged with what they say; each surface is in the cloud once."""
        views = len(depth)
        valid, fused, fresh = torch.zeros_like(sure), depth.clone(), torch.zeros_like(sure)
        for view in range(views):
            votes, total = torch.zeros_like(sure[view], dtype=torch.int64), depth[view].clone()
            known = torch.zeros_like(sure[view])
            for other in (v for v in range(views) if v != view):
                agrees, back = self._agrees(cameras, depth, sure, view, other)
                votes += agrees
                total += torch.where(agrees, back, 0.0)
                if other < view:
                    known |= agrees & _seen_at(valid[other], cameras, fused[view], view, other)
            valid[view] = sure[view] & (votes >= self.agreeing)
            fused[view] = total / (1 + votes)
            fresh[view] = valid[view] & ~known
        origins, directions = cameras.rays()
        places = (origins + fused.flatten(1)[..., None] * directions).view(*fused.shape, 3)
        return DenseReconstruction(fused, score, valid, places[fresh], images.permute(0, 2, 3, 1)[fresh])

    def _agrees(
        self, cameras: Camera, depth: Tensor, sure: Tensor, view: int, other: int
    ) -> tuple[Bool[Tensor, "h w"], Float[Tensor, "h w"]]:
        """Whether the other view's depth, where this view's surface projects to, leads back here; and the depth it
        leads back to."""
        height, width = depth.shape[1:]
        there, ahead = _projected(cameras, depth[view], view, other)
        maps = torch.stack([depth[other], sure[other].to(depth)])[None]
        read = F.grid_sample(maps, _grid(there, height, width), align_corners=False)[0]
        theirs, believed = read[0].flatten(), read[1].flatten()
        origin, direction = cameras[other].rays(there)
        back, back_depth = cameras[view].project(origin + theirs[:, None] * direction)
        here = pixel_centers(height, width, depth.device)
        mine = depth[view].flatten()
        agrees = (
            (ahead > 0)
            & (believed > 0.5)
            & (torch.linalg.norm(back - here, dim=-1) < self.reprojection)
            & ((back_depth - mine).abs() < self.tolerance * mine)
        )
        return agrees.view(height, width), back_depth.nan_to_num(0, 0, 0).view(height, width)


def warped_places(view: Camera, source: Camera, inverse: Float[Tensor, " planes"]) -> Float[Tensor, "planes h w 2"]:
    """Pixels of the source where each pixel of the view lies if it is at depth 1 / inverse; infinite behind it."""
    relative = source.world_to_camera @ torch.linalg.inv(view.world_to_camera)
    pixels = F.pad(pixel_centers(view.height, view.width, view.K.device), (0, 1), value=1.0)
    turned = pixels @ (source.K @ relative[:3, :3] @ torch.linalg.inv(view.K)).T
    homogeneous = turned + inverse[:, None, None] * (source.K @ relative[:3, 3])
    depth = homogeneous[..., 2:]
    places = torch.where(depth > 1e-6, homogeneous[..., :2] / depth, torch.inf)
    return places.view(len(inverse), view.height, view.width, 2)


def _projected(cameras: Camera, depth: Float[Tensor, "h w"], view: int, other: int) -> tuple[Tensor, Tensor]:
    """The view's surface in the other's pixels, and its depth there."""
    origin, direction = cameras[view].rays()
    return cameras[other].project(origin + depth.flatten()[:, None] * direction)


def _grid(pixels: Float[Tensor, "n 2"], height: int, width: int) -> Float[Tensor, "1 h w 2"]:
    unit = pixels * pixels.new_tensor([2 / width, 2 / height]) - 1
    return unit.nan_to_num(2, 2, -2).clamp(-2, 2).view(1, height, width, 2)


def _seen_at(mask: Tensor, cameras: Camera, depth: Tensor, view: int, other: int) -> Bool[Tensor, "h w"]:
    """The other view's mask where this view's surface projects to."""
    height, width = depth.shape
    there, _ = _projected(cameras, depth, view, other)
    grid = _grid(there, height, width)
    return F.grid_sample(mask[None, None].to(depth), grid, mode="nearest", align_corners=False)[0, 0] > 0.5


# the experiment ------------------------------------------------------------------------------------------------------


def textured_views(count: int, size: int, seed: int, texture: str = "real", arc: float = 1.0) -> list[Sample]:
    """Posed views of one scene whose objects carry photographs; each pixel is the mean of four rays."""
    knobs = Knobs(objects=(6, 8), radius=(0.9, 1.3), texture=texture, background="checker", occlusion=0.6)
    views = pictures(count, size, seed, knobs, arc)
    fine = pictures(count, 2 * size, seed, knobs, arc)
    for view, twice in zip(views, fine, strict=True):
        assert twice.image is not None
        view.image = F.avg_pool2d(twice.image, 2)
    return views


def _measured(views: list[Sample], stereo: MultiViewStereo) -> dict[str, float]:
    """Errors of the depth relative to the truth, on textured pixels, as swept and as fused."""
    images = torch.stack([v.image for v in views if v.image is not None])
    truth = torch.stack([v.depth for v in views if v.depth is not None])
    found = stereo.reconstruct(images, Camera.stack([v.camera for v in views if v.camera is not None]))
    grey = images.mean(1)
    spread = (box_mean(grey.square(), stereo.window) - box_mean(grey, stereo.window).square()).clamp_min(0).sqrt()
    textured = spread >= stereo.texture
    error = (found.depth - truth).abs() / truth
    answered = found.valid & textured
    figures = {
        "median_relative_error": float(error[answered].median()) if bool(answered.any()) else 1.0,
        "mean_relative_error": float(error[answered].mean()) if bool(answered.any()) else 1.0,
        "answered": float(answered.sum() / textured.sum()),
        "right": float((error[answered] < 0.03).double().mean()) if bool(answered.any()) else 0.0,
        "swept_median_relative_error": float(error[textured].median()),
    }
    figures["untextured_answered"] = float((found.valid & ~textured).sum() / (~textured).sum().clamp_min(1))
    figures["untextured_swept_error"] = float(error[~textured].median()) if bool((~textured).any()) else 0.0
    return figures


def experiment(views: int = 8, size: int = 160, planes: int = 128, scenes: int = 2, seed: int = 0) -> dict[str, float]:
    """World scenes with photographs on their objects, and the same ones in plain colours, where stereo is blind."""
    stereo = MultiViewStereo(planes=planes)
    each = [_measured(textured_views(views, size, seed + k), stereo) for k in range(scenes)]
    figures = {name: sum(row[name] for row in each) / scenes for name in each[0]}
    plain = _measured(textured_views(views, size, seed, "flat"), stereo)
    return figures | {"plain_scene_untextured_error": plain["untextured_swept_error"]}
