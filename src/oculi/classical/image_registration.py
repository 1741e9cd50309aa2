r"""Image registration: bring a picture over another one that shows the same plane, or the same scene from the same place.

    features of both -> matches (mutual, ratio test) -> H by RANSAC from the matches -> warp

    aligned(x) = image(H^-1 x)             H maps the picture's pixels to the reference's

Matching is the first half only: registration is the transform and the aligned picture. `Registration` holds the proof
too: how many matches agree on H, and the correlation of the two pictures where both are seen, before and after.

    correlation = mean((a - mean a)(b - mean b)) / (std a std b),  in [-1, 1]

What cannot be registered is an error: too few features or matches, fewer than `inliers` that agree, a map that folds the
picture over or shrinks it to nothing, or one that makes the pictures no more alike than they were.

    image, reference   1 or 3 x H x W in [0, 1], of any two sizes
    H                  3 x 3, float64
    aligned            1 or 3 x H x W of the reference;  inside: where it shows the picture

Zitova, Flusser: Image registration methods: a survey, Image and Vision Computing 21, 2003. Features: Lowe 2004.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from oculi.classical.ransac import RANSAC
from oculi.classical.sift import SIFT, photographs, warp, warps
from oculi.geometry.homography import apply_homography, warp_perspective
from oculi.metrics.correspondence import corner_error
from oculi.ops.matching import match_descriptors
from oculi.predictions import Keypoints

GREY = (0.299, 0.587, 0.114)  # ITU-R 601
SMALLEST = 16  # pixels on the shorter side, below which there is nothing to find


@dataclass
class Registration:
    """How a picture lies over the reference, the picture in that place, and what speaks for it."""

    H: Float[Tensor, "3 3"]
    aligned: Float[Tensor, "channels height width"]
    inside: Bool[Tensor, "height width"]
    inliers: int
    matches: int
    before: float  # correlation as the two came; 0 where they differ in size
    after: float  # and aligned


@dataclass
class Agreement:
    """A homography and the matched places (n x 2 each) that agree on it, and how many matches there were."""

    H: Float[Tensor, "3 3"]
    first: Float[Tensor, "n 2"]
    second: Float[Tensor, "n 2"]
    matches: int


def grey_picture(image: Float[Tensor, "c h w"], name: str = "image") -> Float[Tensor, "1 h w"]:
    """What features are found on. Raises ValueError for what is not a picture of 1 or 3 channels, NaN, or too small."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"{name}: expected 1 or 3 x H x W, got {tuple(image.shape)}")
    if min(image.shape[1:]) < SMALLEST:
        raise ValueError(f"{name}: expected at least {SMALLEST} x {SMALLEST} pixels, got {tuple(image.shape[1:])}")
    if not bool(torch.isfinite(image).all()):
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    if image.shape[0] == 1:
        return image
    return (image * image.new_tensor(GREY).view(3, 1, 1)).sum(0, keepdim=True)


def correlation(a: Float[Tensor, "1 h w"], b: Float[Tensor, "1 h w"], where: Bool[Tensor, "h w"]) -> float:
    """Of two pictures' grey levels where `where` is true, in [-1, 1]; 0 where one of them is flat."""
    x, y = a[0][where].double(), b[0][where].double()
    if len(x) < 2:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    length = float(x.norm() * y.norm())
    return float(x @ y) / length if length > 1e-9 else 0.0


def is_sane(H: Float[Tensor, "3 3"], height: int, width: int, most: float = 20.0) -> bool:
    """Whether H keeps the picture's corners convex and in their order and its area within a factor of `most`."""
    corners = H.new_tensor([[0, 0], [width, 0], [width, height], [0, height]])
    depth = F.pad(corners, (0, 1), value=1.0) @ H[2]
    if not bool((depth > 0).all() or (depth < 0).all()):
        return False
    mapped = apply_homography(H, corners)
    side = mapped.roll(-1, 0) - mapped
    following = side.roll(-1, 0)
    turns = side[:, 0] * following[:, 1] - side[:, 1] * following[:, 0]
    rolled = mapped.roll(-1, 0)
    area = float((mapped[:, 0] * rolled[:, 1] - mapped[:, 1] * rolled[:, 0]).sum() / 2) / (height * width)
    return bool((turns > 0).all()) and 1 / most < area < most


def agree(
    first: Keypoints, second: Keypoints, ratio: float = 0.8, threshold: float = 2.0, inliers: int = 12, seed: int = 0
) -> Agreement:
    """The homography that maps the first picture's keypoints to the second's.

    Raises ValueError where fewer than `inliers` matches, or fewer than chance would give, agree on one.
    """
    for name, features in (("first", first), ("second", second)):
        if len(features.points) < inliers:
            raise ValueError(f"{name}: expected at least {inliers} features, found {len(features.points)}")
    pairs, _ = match_descriptors(first.descriptors, second.descriptors, ratio)
    a, b = first.points[pairs[:, 0]].double(), second.points[pairs[:, 1]].double()
    if len(pairs) < inliers:
        raise ValueError(f"first, second: expected at least {inliers} matches, found {len(pairs)}: no common content")
    found = RANSAC(threshold=threshold, confidence=0.999, seed=seed).fit(a, b)
    agreed = int(found.inliers.sum())
    # Brown and Lowe: right matches are so many of all that wrong pictures hardly ever give them
    needed = max(inliers, 6 + 0.22 * len(pairs))
    if agreed < needed:
        raise ValueError(
            f"first, second: expected {needed:.0f} of {len(pairs)} matches to agree, got {agreed}: no common content"
        )
    return Agreement(found.model, a[found.inliers], b[found.inliers], len(pairs))


class ImageRegistration:
    """Aligns a picture with a reference by SIFT and RANSAC; nothing is learned.

    ratio: of the ratio test. threshold: pixels by which an inlier may miss. inliers: fewest that make a registration.
    max_keypoints: strongest features used, 0 for all. root: RootSIFT descriptors.
    """

    def __init__(
        self,
        ratio: float = 0.8,
        threshold: float = 2.0,
        inliers: int = 12,
        max_keypoints: int = 4000,
        root: bool = True,
        seed: int = 0,
    ):
        if not 0 < ratio <= 1 or not threshold > 0:
            raise ValueError(f"ratio, threshold: expected (0, 1] and a positive number, got {ratio} and {threshold}")
        if inliers < 5:
            raise ValueError(f"inliers: expected at least 5, one more than any four matches have, got {inliers}")
        self.ratio, self.threshold, self.inliers, self.seed = ratio, threshold, inliers, seed
        self.features = SIFT(max_keypoints=max_keypoints, root=root)

    @torch.no_grad()
    def register(self, image: Float[Tensor, "c h w"], reference: Float[Tensor, "c2 h2 w2"]) -> Registration:
        """The picture brought over the reference. Raises ValueError where that cannot be done (see above)."""
        grey, fixed = grey_picture(image, "image"), grey_picture(reference, "reference")
        first, second = self.features.detect(grey), self.features.detect(fixed)
        found = agree(first, second, self.ratio, self.threshold, self.inliers, self.seed)
        if not is_sane(found.H, *image.shape[1:]):
            raise ValueError("image: the best map folds the picture over or shrinks it to nothing: no common content")
        height, width = reference.shape[1:]
        aligned, inside = warp_perspective(image, found.H, height, width)
        moved, _ = warp_perspective(grey, found.H, height, width)
        after = correlation(moved, fixed, inside)
        before = correlation(grey, fixed, inside) if image.shape[1:] == reference.shape[1:] else 0.0
        if after < before - 0.01:
            raise ValueError(
                f"image: aligned it is less like the reference ({after:.2f}) than as it came ({before:.2f})"
            )
        return Registration(found.H, aligned.clamp(0, 1), inside, len(found.first), found.matches, before, after)


def experiment(size: int = 384, photos: int = 5, seed: int = 0) -> dict[str, float]:
    """Photographs registered with their warps: corner errors in pixels, the share under 5, and the correlations."""
    system = ImageRegistration(seed=seed)
    errors, before, after = [], [], []
    for photo in photographs(size, photos):
        for H in warps(size).values():
            try:
                found = system.register(photo, warp(photo, H))
            except ValueError:
                errors.append(float("inf"))
                continue
            errors.append(corner_error(found.H, H, size, size))
            before.append(found.before)
            after.append(found.after)
    error = torch.tensor(errors)
    return {
        "median_corner_error": float(error.median()),
        "success": float((error < 5).double().mean()),
        "correlation": sum(after) / max(len(after), 1),
        "correlation_before": sum(before) / max(len(before), 1),
        "pairs": float(len(errors)),
    }
