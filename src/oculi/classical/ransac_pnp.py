r"""RANSAC PnP: where the camera stands, from matches between its picture and known points of the world.

    w [u v 1]^T = K (R X + t)        error = distance in pixels between the projected point and the pixel

Three matches give up to four poses (P3P); the pose that most matches agree with wins and is refined on them by
Levenberg-Marquardt (`oculi.geometry.pnp`). A point behind the camera never agrees.

Localisation in a known map is the same problem with matches made here: a map is a set of world points, each with the
descriptor under which it was once seen; the picture's keypoints are matched to it by mutual nearest neighbours and
the ratio test, and the pose follows from the matches, most of which may be wrong.

    points    n x 3 in the world;  pixels n x 2, centres at +0.5, free of lens distortion
    model     world_to_camera, 4 x 4, in the points' unit

Fischler, Bolles: Random Sample Consensus, CACM 24(6), 1981; Lepetit, Moreno-Noguer, Fua: EPnP, IJCV 81(2), 2009,
in whose place the three-point solver and the refinement stand.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from oculi.classical.multi_view_stereo import textured_views
from oculi.classical.ransac import RANSAC, Consensus
from oculi.classical.ransac_models import pose
from oculi.classical.sift import SIFT
from oculi.geometry.camera import Camera, intrinsics, look_at
from oculi.geometry.rotations import rotation_error
from oculi.ops.matching import match_descriptors
from oculi.predictions import Keypoints
from oculi.types import images_only


@dataclass
class FeatureMap:
    """Points of the world and the descriptor of each."""

    points: Float[Tensor, "n 3"]
    descriptors: Float[Tensor, "n dimensions"]

    @staticmethod
    def of_view(keypoints: Keypoints, depth: Float[Tensor, "h w"], camera: Camera) -> FeatureMap:
        """The map that one picture with known pose and depth makes: its keypoints where the depth is finite."""
        columns, rows = keypoints.points.long().unbind(1)
        at = depth[rows.clamp(0, depth.shape[0] - 1), columns.clamp(0, depth.shape[1] - 1)]
        known = torch.isfinite(at) & (at > 0)
        origin, direction = camera.rays(keypoints.points[known])
        return FeatureMap(origin + at[known, None] * direction, keypoints.descriptors[known])


class RANSACPnP:
    """Robust pose of a camera with known intrinsics.

    threshold: largest reprojection error of an inlier in pixels. ratio: of the matches to a map, see `match_descriptors`.
    least: matches to a map that must agree; features of one surface that are taken for another's agree by handfuls. The
    others are RANSAC's.
    """

    def __init__(
        self,
        threshold: float = 2.0,
        confidence: float = 0.99,
        max_trials: int = 4096,
        batch: int = 64,
        ratio: float = 0.8,
        least: int = 12,
        seed: int = 0,
    ):
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio: expected a number in (0, 1], got {ratio}")
        if least < 4:
            raise ValueError(f"least: expected at least 4, since any 3 agree, got {least}")
        self.ransac: dict[str, Any] = {"confidence": confidence, "max_trials": max_trials, "batch": batch, "seed": seed}
        self.threshold, self.ratio, self.least = threshold, ratio, least
        RANSAC("pose", threshold, **self.ransac)  # refuses what cannot be

    def fit(self, points: Float[Tensor, "n 3"], pixels: Float[Tensor, "n 2"], K: Float[Tensor, "3 3"]) -> Consensus:
        """`world_to_camera` as the model, errors in pixels.

        Raises ValueError for under three matches, NaN, points on one line, a K that cannot be inverted, or matches of
        which no more agree than by chance.
        """
        return RANSAC(pose(K), self.threshold, **self.ransac).fit(points, pixels)

    def locate(self, keypoints: Keypoints, known: FeatureMap, K: Float[Tensor, "3 3"]) -> tuple[Consensus, Tensor]:
        """The pose of a picture with these keypoints in a known map, and the matches (keypoint, map point) it used.

        `inliers` and `errors` are the matches'. Raises ValueError as `fit` does, and for fewer than `least` inliers.
        """
        pairs, _ = match_descriptors(keypoints.descriptors, known.descriptors, self.ratio)
        if len(pairs) < self.least:
            raise ValueError(f"keypoints: expected at least {self.least} that match the map, got {len(pairs)}")
        found = self.fit(known.points[pairs[:, 1]], keypoints.points[pairs[:, 0]], K)
        if int(found.inliers.sum()) < self.least:
            raise ValueError(
                f"keypoints: {int(found.inliers.sum())} of {len(pairs)} matches agree on a pose, expected {self.least}"
            )
        return found, pairs


# the experiment ------------------------------------------------------------------------------------------------------


def synthetic_view(
    matches: int, outliers: float, noise: float, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Bool[Tensor, " n"]]:
    """World points, their pixels in a 640 x 480 picture, K, `world_to_camera`, and which matches are true."""
    g = torch.Generator().manual_seed(seed)
    size = torch.tensor([640.0, 480.0], dtype=torch.float64)
    K = intrinsics(500.0, 500.0, 320.0, 240.0).double()
    eye = torch.randn(3, generator=g, dtype=torch.float64)
    eye = 8 * eye / torch.linalg.norm(eye)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    camera = Camera(K, look_at(eye, torch.zeros(3, dtype=torch.float64), up), 480, 640)
    pixels = torch.rand(matches, 2, generator=g, dtype=torch.float64) * size
    origin, direction = camera.rays(pixels)
    points = origin + (5 + 6 * torch.rand(matches, 1, generator=g, dtype=torch.float64)) * direction
    pixels = pixels + noise * torch.randn(matches, 2, generator=g, dtype=torch.float64)
    true = torch.arange(matches) >= round(outliers * matches)
    pixels[~true] = torch.rand(int((~true).sum()), 2, generator=g, dtype=torch.float64) * size
    return points, pixels, K, camera.world_to_camera, true


def localised(size: int, pictures: int, scenes: int) -> Float[Tensor, " n"]:
    """Rotation errors in degrees of World pictures, each in the map of the picture before; infinite: not located."""
    sift, solver, errors = SIFT(size).eval(), RANSACPnP(), []
    for scene in range(scenes):
        samples = textured_views(pictures, size, scene, arc=0.8)
        grey = torch.stack([s.image.mean(0, keepdim=True) for s in samples if s.image is not None])
        with torch.no_grad():
            keypoints = sift.predict(images_only(grey))
        for (one, seen), (two, now) in pairwise(zip(samples, keypoints)):
            assert one.depth is not None
            assert one.camera is not None
            assert two.camera is not None
            try:
                found, _ = solver.locate(now, FeatureMap.of_view(seen, one.depth, one.camera), two.camera.K)
                errors.append(float(rotation_error(found.model[:3, :3], two.camera.R)))
            except ValueError:
                errors.append(float("inf"))
    return torch.tensor(errors)


def experiment(
    matches: int = 500,
    outliers: float = 0.4,
    noise: float = 0.5,
    seeds: int = 50,
    size: int = 384,
    pictures: int = 12,
    scenes: int = 2,
) -> dict[str, float]:
    """Errors of the pose from exact matches and from noisy ones with outliers, and of World pictures in a SIFT map."""
    exact, rotations, centers, overlaps = [], [], [], []
    for seed in range(seeds):
        points, pixels, K, truth, _ = synthetic_view(matches, 0.0, 0.0, seed)
        found = RANSACPnP(seed=seed).fit(points, pixels, K)
        exact.append(float(rotation_error(found.model[:3, :3], truth[:3, :3])))
        points, pixels, K, truth, true = synthetic_view(matches, outliers, noise, seed)
        found = RANSACPnP(seed=seed).fit(points, pixels, K)
        rotations.append(float(rotation_error(found.model[:3, :3], truth[:3, :3])))
        ours, theirs = (-(m[:3, :3].T @ m[:3, 3]) for m in (found.model, truth))
        centers.append(float(torch.linalg.norm(ours - theirs)) / 8)
        overlaps.append(float((found.inliers & true).sum() / (found.inliers | true).sum()))
    located = localised(size, pictures, scenes)
    return {
        "exact_rotation_error": max(exact),
        "rotation_error": max(rotations),
        "center_error": max(centers),
        "inlier_iou": min(overlaps),
        "map_rotation_error": float(located.median()),
        "map_located": float((located < 1).double().mean()),
        "map_misled": float(((located >= 1) & located.isfinite()).double().mean()),
    }
