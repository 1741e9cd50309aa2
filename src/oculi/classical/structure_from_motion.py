r"""Structure from motion: from pictures alone, where each was taken and the points they share.

    features     SIFT in every picture, matched between all pairs; an essential matrix by RANSAC says which matches agree
    tracks       features joined by matches over all pictures: one scene point each; two in one picture spoil a track
    start        the pair with most agreeing matches seen under a fair angle: E = [t]x R, points by triangulation
    next view    the one that sees most points so far, placed by PnP with RANSAC; new tracks are triangulated
    after each   bundle adjustment; observations off by more than `reprojection` pixels and points under too small an
                 angle are dropped, and may come back

Poses and points are estimated together, from K and the pictures. Pictures do not tell where the world's origin is, which
way it is turned and how large it is: the first view of the start is the origin, its distance to the second one is 1, and
comparison with truth is after a similarity. A camera that only turns, or does not move, sees no depth: x' ~ K R K^{-1} x.
Matches of such a pair join tracks but start nothing, and where all pairs are such, a ValueError says so.

    images   views x channels x H x W in [0, 1], of one size;  K: 3 x 3 in pixels, one for all views (or views x 3 x 3)
    points   in units of the first baseline;  errors in pixels

Dense surfaces come from `MultiViewStereo` on the cameras found, between the depths of `depth_range`.

Differs from COLMAP: all pairs are matched, no views are chosen by how their points spread, and bundle adjustment is
over all views each time, which is for tens of views, not for thousands.

Schonberger, Frahm: Structure-from-Motion Revisited, CVPR 2016; Snavely, Seitz, Szeliski: Photo Tourism, SIGGRAPH 2006.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from oculi.classical.multi_view_stereo import textured_views
from oculi.classical.ransac import RANSAC, Consensus
from oculi.classical.ransac_models import essential, pose
from oculi.classical.sift import SIFT
from oculi.geometry.bundle_adjustment import Observations, Refined, bundle_adjustment, reprojection_errors
from oculi.geometry.camera import Camera
from oculi.geometry.camera_conventions import Reconstruction, View
from oculi.geometry.essential import calibrated, relative_pose
from oculi.geometry.pointmaps import similarity
from oculi.geometry.triangulation import projection_matrix, reprojection_error, triangulate
from oculi.ops.matching import match_descriptors

FAIR_ANGLE = 10.0  # degrees; a start under more is not the better for it


@dataclass
class SparseReconstruction:
    """Cameras of the views that could be placed, and the points that they see.

    registered: the views' numbers, in the order of `cameras`. observations: `camera` counts within `cameras`. errors: of
    the observations, pixels. colours: mean over the views that see the point.
    """

    registered: Int[Tensor, " cameras"]
    cameras: Camera
    points: Float[Tensor, "p 3"]
    colours: Float[Tensor, "p 3"]
    observations: Observations
    errors: Float[Tensor, " n"]

    def depth_range(self, margin: float = 0.2) -> tuple[float, float]:
        """Nearest and farthest depth of the points in the views that see them, with a margin; for a plane sweep."""
        _, depth = reprojection_errors(self.cameras, self.points, self.observations)
        low, high = torch.quantile(depth, depth.new_tensor([0.01, 0.99])).tolist()
        return low * (1 - margin), high * (1 + margin)

    def exchanged(self, names: list[str] | None = None) -> Reconstruction:
        """As COLMAP has it, for `write_colmap` and `write_ply`; names: of all the pictures' files."""
        views = []
        for k, number in enumerate(self.registered.tolist()):
            mine = self.observations[self.observations.camera == k]
            name = names[number] if names else f"view_{number:04d}.png"
            lens = torch.zeros(5, dtype=torch.float64)
            views.append(View(name, self.cameras[k], lens, mine.pixels, mine.point))
        colours: UInt8[Tensor, "p 3"] = (self.colours * 255).round().to(torch.uint8)
        return Reconstruction(views, self.points, colours)


@dataclass
class Pair:
    """Two views' agreeing matches (feature numbers), the second one's pose as seen from the first (R, t, |t| = 1), and under
    what angle (degrees) the median match is seen: 0, without a pose, where the camera only turned."""

    views: tuple[int, int]
    matches: Int[Tensor, "m 2"]
    pose: tuple[Float[Tensor, "3 3"], Float[Tensor, "3"]] | None
    angle: float


class StructureFromMotion:
    """Incremental structure from motion of calibrated pictures; nothing is learned.

    max_keypoints: strongest features per picture. ratio: of the ratio test. threshold: pixels that a match may be off
    its epipolar line. reprojection: pixels that an observation may be off. angle: least degrees between a point's rays.
    least: matches, or points in view, without which a pair or a view does not count. refine: of the shared K, in the
    last bundle adjustment.
    """

    def __init__(
        self,
        max_keypoints: int = 2000,
        ratio: float = 0.8,
        threshold: float = 1.0,
        reprojection: float = 1.5,
        angle: float = 1.5,
        least: int = 15,
        refine: Refined = "nothing",
        seed: int = 0,
    ):
        if max_keypoints < 8 or least < 8:
            raise ValueError(f"max_keypoints, least: expected at least 8, got {max_keypoints} and {least}")
        if min(threshold, reprojection, angle) <= 0:
            raise ValueError(
                f"threshold, reprojection, angle: expected positive numbers, got {threshold}, {reprojection}, {angle}"
            )
        if refine not in ("nothing", "focal", "pinhole"):
            raise ValueError(f"refine: expected nothing, focal or pinhole, got {refine!r}")
        self.sift = SIFT(max_keypoints=max_keypoints).eval()
        self.ratio, self.threshold, self.reprojection, self.angle = ratio, threshold, reprojection, angle
        self.least, self.refine, self.seed = least, refine, seed

    def reconstruct(
        self, images: Float[Tensor, "views channels height width"], K: Float[Tensor, "*views 3 3"]
    ) -> SparseReconstruction:
        """Cameras and points. Raises ValueError for fewer than two pictures, NaN, pictures without enough in common, or
        pictures that all were taken from one place."""
        if images.ndim != 4 or len(images) < 2:
            raise ValueError(f"images: expected at least two, views x channels x H x W, got {tuple(images.shape)}")
        if not bool(torch.isfinite(images).all()):
            raise ValueError("images: expected finite numbers, got NaN or infinity")
        with torch.no_grad():
            found = [self.sift.detect(image.mean(0, keepdim=True)) for image in images]
        pixels = [f.points.double() for f in found]
        matches = {
            (i, j): match_descriptors(found[i].descriptors, found[j].descriptors, self.ratio)[0]
            for i, j in itertools.combinations(range(len(images)), 2)
        }
        made = self.from_matches(pixels, matches, K, images.shape[2], images.shape[3])
        return replace(made, colours=_colours(images, made))

    def from_matches(
        self,
        pixels: list[Float[Tensor, "features 2"]],
        matches: dict[tuple[int, int], Int[Tensor, "m 2"]],
        K: Float[Tensor, "*views 3 3"],
        height: int,
        width: int,
    ) -> SparseReconstruction:
        """The same from features of any kind: places per view, and pairs of feature numbers per pair of views."""
        if K.shape not in ((3, 3), (len(pixels), 3, 3)) or not bool(torch.isfinite(K).all()):
            raise ValueError(f"K: expected finite 3 x 3 or {len(pixels)} x 3 x 3, got {tuple(K.shape)}")
        K = K.double().expand(len(pixels), 3, 3)
        rough = {views: m for views, m in matches.items() if len(m) >= self.least}
        pairs = [pair for views, m in rough.items() if (pair := self._pair(pixels, views, m, K)) is not None]
        if not pairs:
            most = max((len(m) for m in matches.values()), default=0)
            raise ValueError(f"images: no two have {self.least} matches that agree on a pose (most matches: {most})")
        moved = [pair for pair in pairs if pair.angle >= self.angle]
        if not moved:
            raise ValueError(
                "images: taken from one place, or the same picture twice; a camera that only turns sees no depth "
                f"(widest angle between two views of a point: {max(pair.angle for pair in pairs):.2f} degrees)"
            )
        build = _Build(
            self, tracks_of(pixels, pairs), Camera(K, torch.eye(4).double().repeat(len(K), 1, 1), height, width)
        )
        for pair in sorted(moved, key=_promise, reverse=True)[:5]:
            if build.start(pair):
                return build.finished()
        raise ValueError("images: no pair gives enough points to start from")

    def _pair(
        self, pixels: list[Tensor], views: tuple[int, int], matches: Int[Tensor, "m 2"], K: Float[Tensor, "views 3 3"]
    ) -> Pair | None:
        """The matches that agree on an essential matrix, or on a homography where that is not fixed; None: too few do."""
        one, two = views
        first, second = pixels[one][matches[:, 0]], pixels[two][matches[:, 1]]
        try:
            found = RANSAC(essential(K[one], K[two]), self.threshold, seed=self.seed).fit(first, second)
            kept, relative, angle = self._posed(found, calibrated(K[one], first), calibrated(K[two], second))
        except ValueError:
            try:
                kept = RANSAC("homography", self.threshold, seed=self.seed).fit(first, second).inliers
                relative, angle = None, 0.0
            except ValueError:
                return None
        return Pair(views, matches[kept], relative, angle) if int(kept.sum()) >= self.least else None

    def _posed(self, found: Consensus, first: Tensor, second: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor], float]:
        """Inliers in front of both cameras, the second one's R and t, and the median angle between their rays."""
        kept = found.inliers.nonzero()[:, 0]
        R, t, front = relative_pose(found.model, first[kept], second[kept])
        kept = kept[front]
        a, b = (F.normalize(F.pad(v[kept], (0, 1), value=1.0), dim=-1) for v in (first, second))
        angles = torch.linalg.norm(torch.linalg.cross(a @ R.T, b), dim=-1).clamp_max(1).asin()
        inside = torch.zeros_like(found.inliers)
        inside[kept] = True
        return inside, (R, t), float(torch.rad2deg(angles.median()))


def _promise(pair: Pair) -> float:
    return len(pair.matches) * min(pair.angle, FAIR_ANGLE)


def tracks_of(pixels: list[Tensor], pairs: list[Pair]) -> Observations:
    """Features joined by matches: each connected set with at most one feature a view is a track, numbered from 0."""
    sizes = torch.tensor([len(p) for p in pixels])
    begin = sizes.cumsum(0) - sizes
    view = torch.arange(len(pixels)).repeat_interleave(sizes)
    edges = torch.cat([pair.matches + begin[list(pair.views)] for pair in pairs])
    root = torch.arange(int(sizes.sum()))
    while True:
        lowest = root[edges].amin(1)
        joined = root.scatter_reduce(0, edges[:, 0], lowest, "amin").scatter_reduce(0, edges[:, 1], lowest, "amin")
        joined = joined[joined]
        if torch.equal(joined, root):
            break
        root = joined
    feature = edges.unique()
    _, track = root[feature].unique(return_inverse=True)
    seen = track * len(pixels) + view[feature]
    _, where, count = seen.unique(return_inverse=True, return_counts=True)
    spoilt = torch.zeros(int(track.max()) + 1, dtype=torch.bool)
    spoilt[track[count[where] > 1]] = True
    feature = feature[~spoilt[track]]
    _, track = root[feature].unique(return_inverse=True)
    return Observations(view[feature], track, torch.cat(pixels)[feature])


class _Build:
    """The reconstruction as it grows: poses of all views, points of all tracks, and which of them are there."""

    def __init__(self, how: StructureFromMotion, seen: Observations, cameras: Camera):
        self.how, self.seen, self.cameras = how, seen, cameras
        self.tracks = int(seen.point.max()) + 1 if len(seen) else 0
        self.pixels = torch.zeros(len(cameras), self.tracks, 2, dtype=torch.float64)
        self.pixels[seen.camera, seen.point] = seen.pixels

    def start(self, pair: Pair) -> bool:
        """Two views and their points; false where too few points come of it."""
        self.placed = torch.zeros(len(self.cameras), dtype=torch.bool)
        self.points = torch.zeros(self.tracks, 3, dtype=torch.float64)
        self.known = torch.zeros(self.tracks, dtype=torch.bool)
        self.used = torch.zeros(len(self.seen), dtype=torch.bool)
        self.order = list(pair.views)
        if pair.pose is None:
            return False
        first, second = pair.views
        self.cameras.world_to_camera[first] = torch.eye(4, dtype=torch.float64)
        self.cameras.world_to_camera[second, :3, :3], self.cameras.world_to_camera[second, :3, 3] = pair.pose
        self.placed[[first, second]] = True
        self._triangulate()
        if int(self.known.sum()) < self.how.least:
            return False
        self._adjust(20)
        return int(self.known.sum()) >= self.how.least

    def finished(self) -> SparseReconstruction:
        """Every view that can be placed, then all refined together."""
        while self._grow():
            pass
        for _ in range(2):
            self._triangulate()
            self._adjust(50)
        self._adjust(100, self.how.refine)
        views = torch.tensor(sorted(self.order))
        row = torch.full((len(self.cameras),), -1)
        row[views] = torch.arange(len(views))
        number = self.known.cumsum(0) - 1
        mine = self.seen[self.used]
        observations = Observations(row[mine.camera], number[mine.point], mine.pixels)
        cameras, points = self.cameras[views], self.points[self.known]
        scale = 1 / torch.linalg.norm(self.cameras.center[self.order[1]] - self.cameras.center[self.order[0]])
        cameras.world_to_camera[:, :3, 3] *= scale
        errors, _ = reprojection_errors(cameras, points * scale, observations)
        return SparseReconstruction(views, cameras, points * scale, torch.zeros_like(points), observations, errors)

    def _grow(self) -> bool:
        """Place the view that sees most points and can be placed; false where there is none."""
        candidate = self.known[self.seen.point] & ~self.placed[self.seen.camera]
        counts = torch.bincount(self.seen.camera[candidate], minlength=len(self.cameras))
        for view in counts.argsort(descending=True, stable=True).tolist():
            if int(counts[view]) < self.how.least:
                return False
            mine = candidate & (self.seen.camera == view)
            if self._place(view, mine.nonzero()[:, 0]):
                self._adjust(10)
                self._triangulate()
                self._adjust(10)
                return True
        return False

    def _place(self, view: int, mine: Int[Tensor, " m"]) -> bool:
        """The view's pose from points that it sees; false where too few agree."""
        points, pixels = self.points[self.seen.point[mine]], self.seen.pixels[mine]
        pnp = RANSAC(pose(self.cameras.K[view]), threshold=self.how.reprojection, seed=self.how.seed)
        try:
            found = pnp.fit(points, pixels)
        except ValueError:
            return False
        if int(found.inliers.sum()) < self.how.least:
            return False
        self.cameras.world_to_camera[view] = found.model
        self.placed[view] = True
        self.used[mine[found.inliers]] = True
        self.order.append(view)
        return True

    def _triangulate(self) -> None:
        """Points of tracks that placed views see and that have none yet; then observations that fit come in."""
        rows = (self.placed[self.seen.camera] & ~self.known[self.seen.point]).nonzero()[:, 0]
        if not len(rows):
            return
        part = self.seen[rows]
        sees = torch.zeros(len(self.placed), self.tracks, dtype=torch.bool)
        sees[part.camera, part.point] = True
        for _ in range(3):  # what is farthest off goes first
            points, valid = triangulate(projection_matrix(self.cameras), self.pixels, sees)
            off = reprojection_error(projection_matrix(self.cameras), points, self.pixels).nan_to_num(1e9, 1e9)
            off = torch.where(sees, off, 0.0)
            sees &= (off < self.how.reprojection) | (off < off.amax(0))
        fits = (sees & valid & (off < self.how.reprojection))[part.camera, part.point]
        self.points = torch.where(self.known[:, None], self.points, points.nan_to_num())
        self.used[rows] = fits
        self.known |= torch.bincount(part.point[fits], minlength=self.tracks) >= 2
        self._drop()

    def _adjust(self, iterations: int, refine: Refined = "nothing") -> None:
        """Bundle adjustment of what is there, after which what does not fit goes and what fits comes back."""
        self._fitting(self.used.nonzero()[:, 0])
        rows = self.used.nonzero()[:, 0]
        views, points = self.placed.nonzero()[:, 0], self.known.nonzero()[:, 0]
        row, number = torch.full((len(self.placed),), -1), self.known.cumsum(0) - 1
        row[views] = torch.arange(len(views))
        part = self.seen[rows]
        own = Observations(row[part.camera], number[part.point], part.pixels)
        fixed = views == self.order[0]
        found = bundle_adjustment(
            self.cameras[views], self.points[points], own, refine, huber=1.0, fixed=fixed, iterations=iterations
        )
        self.cameras.world_to_camera[views], self.points[points] = found.cameras.world_to_camera, found.points
        if refine != "nothing":
            self.cameras.K[:] = found.cameras.K[0]
        self._fitting((self.placed[self.seen.camera] & self.known[self.seen.point]).nonzero()[:, 0])

    def _fitting(self, candidates: Int[Tensor, " m"]) -> None:
        """Use those observations that lie near enough to their points' projections."""
        error, depth = reprojection_errors(self.cameras, self.points, self.seen[candidates])
        self.used[:] = False
        self.used[candidates] = (error < self.how.reprojection) & (depth > 0)
        self._drop()

    def _drop(self) -> None:
        """Points that fewer than two views see, or all under too small an angle, are unknown again."""
        rows = (self.used & self.known[self.seen.point]).nonzero()[:, 0]
        part = self.seen[rows]
        ray = F.normalize(self.points[part.point] - self.cameras.center[part.camera], dim=-1)
        total = torch.zeros_like(self.points).index_add_(0, part.point, ray)
        middle = F.normalize(total, dim=-1)
        aside = torch.linalg.norm(torch.linalg.cross(middle[part.point], ray), dim=-1).clamp_max(1).asin()
        widest = torch.zeros_like(total[:, 0]).scatter_reduce_(0, part.point, aside, "amax")
        count = torch.bincount(part.point, minlength=self.tracks)
        self.known &= (count >= 2) & (torch.rad2deg(2 * widest) >= self.how.angle)
        self.used &= self.known[self.seen.point] & self.placed[self.seen.camera]


def _colours(images: Tensor, made: SparseReconstruction) -> Float[Tensor, "p 3"]:
    """Mean of the pictures at the pixels that see each point."""
    seen, (height, width) = made.observations, images.shape[2:]
    column, row = (seen.pixels[:, k].long().clamp(0, size - 1) for k, size in ((0, width), (1, height)))
    colour = images.expand(-1, 3, -1, -1)[made.registered[seen.camera], :, row, column].double()
    total = colour.new_zeros(len(made.points), 3).index_add_(0, seen.point, colour)
    return total / torch.bincount(seen.point, minlength=len(made.points)).clamp_min(1)[:, None]


# the experiment ------------------------------------------------------------------------------------------------------


def pose_errors(found: SparseReconstruction, truth: Camera) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """After the similarity that best brings the centres to the true ones: degrees that each camera is turned wrongly, and
    how far its centre is off, as a share of the true cameras' extent."""
    true = Camera(truth.K.double(), truth.world_to_camera.double(), truth.height, truth.width)[found.registered]
    moved = similarity(found.cameras.center, true.center)
    extent = torch.linalg.norm(true.center.amax(0) - true.center.amin(0))
    off = torch.linalg.norm(moved(found.cameras.center) - true.center, dim=-1) / extent
    turned = found.cameras.R @ moved.R.T @ true.R.transpose(1, 2)
    sine = torch.linalg.norm(turned - torch.eye(3, dtype=turned.dtype), dim=(1, 2)) / 8**0.5
    return torch.rad2deg(2 * sine.clamp_max(1).asin()), off


def experiment(views: int = 12, size: int = 384, arc: float = 0.8, scenes: int = 2, seed: int = 0) -> dict[str, float]:
    """World scenes with photographs on their objects, views from an arc (radians): all placed, and how far off."""
    rows = []
    for scene in range(scenes):
        samples = textured_views(views, size, seed + scene, arc=arc)
        images = torch.stack([s.image for s in samples if s.image is not None])
        truth = Camera.stack([s.camera for s in samples if s.camera is not None])
        found = StructureFromMotion(seed=seed).reconstruct(images, truth.K[0])
        degrees, off = pose_errors(found, truth)
        errors = [float(degrees.max()), float(off.max()), float(found.errors.mean())]
        counts = [len(found.points), len(found.observations) / len(found.points)]
        rows.append([len(found.registered) / views, *errors, *counts])
    placed, degrees_, off_, error, points, length = torch.tensor(rows, dtype=torch.float64).unbind(1)
    return {
        "registered": float(placed.min()),
        "rotation_error": float(degrees_.max()),
        "center_error": float(off_.max()),
        "reprojection_error": float(error.mean()),
        "points": float(points.mean()),
        "track_length": float(length.mean()),
    }
