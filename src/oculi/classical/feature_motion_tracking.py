r"""Motion tracking by features: an object is followed through a video by finding its features again in every frame.

    first frame, a box -> the object's features
    each frame         -> its features -> matches -> H by RANSAC: where the object has gone
                          if the first look is not found: as it was last seen, H = (last -> now) (first -> last)

Comparing with the first look does not drift; comparing with the last one follows an object that changes. Where neither is
found the frame is lost, which is said, and the object may be found again later.

    video      frames x 1 or 3 x H x W in [0, 1]
    box        x1 y1 x2 y2 in the first frame, pixels
    outlines   frames x 4 x 2, the box's corners, NaN where lost

Lowe: Object recognition from local scale-invariant features, ICCV 1999; Shi, Tomasi: Good features to track, CVPR 1994.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oculi.classical.image_registration import agree, grey_picture, is_sane
from oculi.classical.keypoint_object_recognition import pasted, similarity
from oculi.classical.sift import SIFT, photographs
from oculi.geometry.homography import apply_homography
from oculi.predictions import Keypoints


@dataclass
class Track:
    """Where the object is in every frame and how it got there from the first."""

    outlines: Float[Tensor, "frames 4 2"]
    homographies: Float[Tensor, "frames 3 3"]
    seen: Bool[Tensor, " frames"]
    inliers: Int[Tensor, " frames"]

    @property
    def boxes(self) -> Float[Tensor, "frames 4"]:
        """The smallest upright boxes around the outlines, NaN where lost."""
        return torch.cat([self.outlines.amin(1), self.outlines.amax(1)], 1)


class FeatureMotionTracking:
    """Follows one object by SIFT and RANSAC; nothing is learned.

    inliers: fewest matches that make a sighting. ratio: of the ratio test. threshold: pixels by which a match may miss.
    """

    def __init__(self, inliers: int = 8, ratio: float = 0.8, threshold: float = 2.0, seed: int = 0):
        if inliers < 5:
            raise ValueError(f"inliers: expected at least 5, one more than any four matches have, got {inliers}")
        if not 0 < ratio <= 1 or not threshold > 0:
            raise ValueError(f"ratio, threshold: expected (0, 1] and a positive number, got {ratio} and {threshold}")
        self.inliers, self.ratio, self.threshold, self.seed = inliers, ratio, threshold, seed
        self.features = SIFT(root=True)

    @torch.no_grad()
    def track(self, video: Float[Tensor, "frames c h w"], box: Float[Tensor, "4"]) -> Track:
        """The object in `box` followed. Raises ValueError for a box without enough features to follow."""
        if video.ndim != 4 or not len(video):
            raise ValueError(f"video: expected frames x 1 or 3 x H x W, got {tuple(video.shape)}")
        height, width = video.shape[2:]
        x1, y1, x2, y2 = box.double().tolist()
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise ValueError(f"box: expected x1 y1 x2 y2 within {width} x {height} pixels, got {box.tolist()}")
        corners = torch.tensor([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], dtype=torch.float64)
        frames = [self.features.detect(grey_picture(frame, f"video[{i}]")) for i, frame in enumerate(video)]
        first = _within(frames[0], corners)
        if len(first.points) < self.inliers:
            raise ValueError(f"box: expected at least {self.inliers} features in it, found {len(first.points)}")
        lost = torch.full((3, 3), math.nan, dtype=torch.float64)
        maps, counts = [torch.eye(3, dtype=torch.float64)], [len(first.points)]
        last, to_last = first, maps[0]
        for frame in frames[1:]:
            H, count = self._found(first, frame, corners, torch.eye(3, dtype=torch.float64))
            if H is None and last is not first:
                H, count = self._found(last, frame, corners, to_last)
            maps.append(lost if H is None else H)
            counts.append(count)
            if H is not None:
                seen = _within(frame, apply_homography(H, corners))
                last, to_last = (seen, H) if len(seen.points) >= self.inliers else (last, to_last)
        H = torch.stack(maps)
        seen_in = torch.tensor([count > 0 for count in counts])
        return Track(apply_homography(H, corners.expand(len(H), 4, 2)), H, seen_in, torch.tensor(counts))

    def _found(self, look: Keypoints, frame: Keypoints, corners: Tensor, to_look: Tensor) -> tuple[Tensor | None, int]:
        """The map of the first frame's pixels to this one's and its inliers; None and 0 where the look is not found."""
        try:
            found = agree(look, frame, self.ratio, self.threshold, self.inliers, self.seed)
        except ValueError:
            return None, 0
        H = found.H @ to_look
        size = corners[2] - corners[0]
        box_to_first = torch.eye(3, dtype=torch.float64)
        box_to_first[:2, 2] = corners[0]
        sane = is_sane(H @ box_to_first, math.ceil(float(size[1])), math.ceil(float(size[0])))
        return (H, len(found.first)) if sane else (None, 0)


def _within(found: Keypoints, outline: Float[Tensor, "4 2"]) -> Keypoints:
    """The keypoints inside a convex outline given clockwise on the screen."""
    side = outline.roll(-1, 0) - outline
    away = found.points.double()[:, None] - outline
    inside = (side[:, 0] * away[..., 1] - side[:, 1] * away[..., 0] >= 0).all(1)
    parts = (found.points, found.scales, found.angles, found.scores, found.descriptors)
    return Keypoints(*(part[inside] for part in parts))


# the experiment ------------------------------------------------------------------------------------------------------


def moving_object(
    size: int, side: int, frames: int, generator: torch.Generator, background: int = 1, thing: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """A cutting of one photograph that moves, turns and grows over another: video, its first box, its true corners."""
    photos = photographs(size)
    middle = slice((size - side) // 2, (size + side) // 2)
    cutting = photos[thing][:, middle, middle]
    turn, growth, swing = (2 * torch.rand(3, generator=generator, dtype=torch.float64) - 1).tolist()
    pictures, corners = [], []
    square = torch.tensor([[0, 0], [side, 0], [side, side], [0, side]], dtype=torch.float64)
    for k in range(frames):
        t = k / max(frames - 1, 1)
        place = size * (0.3 + 0.4 * t), size * (0.5 + 0.2 * swing * math.sin(math.pi * t))
        H = similarity(side, place, 60 * turn * t, 1 + 0.3 * growth * t)
        pictures.append(pasted(photos[background], cutting, H))
        corners.append(apply_homography(H, square))
    video, truth = torch.stack(pictures), torch.stack(corners)
    box = torch.cat([truth[0].amin(0), truth[0].amax(0)])
    return video, box.clamp(0, size), truth


def experiment(size: int = 256, side: int = 96, frames: int = 12, videos: int = 5, seed: int = 0) -> dict[str, float]:
    """Objects that move over photographs, hidden in one frame: corner errors in pixels and the frames judged rightly."""
    generator = torch.Generator().manual_seed(seed)
    errors, right = [], []
    for number in range(videos):
        video, box, truth = moving_object(size, side, frames, generator, (number + 1) % videos, number)
        hidden = frames // 2
        video[hidden] = photographs(size)[(number + 1) % videos]
        found = FeatureMotionTracking(seed=seed).track(video, box)
        there = torch.arange(frames) != hidden
        right.append(float((found.seen == there).double().mean()))
        both = there & found.seen
        errors.append((found.outlines - truth)[both].norm(dim=-1).mean(1))
    every = torch.cat(errors)
    return {
        "mean_corner_error": float(every.mean()),
        "worst_corner_error": float(every.max()),
        "right_frames": sum(right) / len(right),
    }
