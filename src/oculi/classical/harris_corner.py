r"""Harris: corners are where a window changes whichever way it is moved.

    M = w * [ Ix Ix   Ix Iy ]          the structure tensor: Sobel gradients, Gaussian window w
            [ Ix Iy   Iy Iy ]
    harris       R = det M - k (trace M)^2 = l1 l2 - k (l1 + l2)^2,  k = 0.04 to 0.06
    shi_tomasi   R = min(l1, l2)

R is large and positive at corners (both eigenvalues large), negative on edges (one), near 0 where the picture is flat.
Corners are the maxima of R, larger than `quality` of the largest, at most one within `distance` pixels; a parabola
through each one's neighbours places it between pixels. The eigenvalues do not change when the picture turns, but they do
when it is scaled: seen larger, a corner is an edge in the same window. SIFT is for that.

    image      batch x 1 x H x W in [0, 1]
    response   batch x H x W, gradients in grey levels per pixel
    points     n x 2, pixels, centres at +0.5; scores are R, best first

Differs from the paper: the Sobel operator for (-1, 0, 1), places between pixels.

Harris, Stephens: A combined corner and edge detector, Alvey Vision Conference 1988. Shi, Tomasi: Good features to track,
CVPR 1994.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from oculi.classical.sift import SIFT, warp
from oculi.data.world.dataset import World
from oculi.geometry.homography import apply_homography
from oculi.input_contract import InputContract
from oculi.metrics.correspondence import seen_in
from oculi.ops.gaussian_blur import gaussian_blur
from oculi.predictions import Keypoints
from oculi.system import System
from oculi.types import Batch, images_only


def sobel(image: Float[Tensor, "b 1 h w"]) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b 1 h w"]]:
    """d/dx and d/dy in grey levels per pixel, the edge repeated."""
    p = F.pad(image, (1, 1, 1, 1), mode="replicate")
    across = p[..., 2:] - p[..., :-2]
    down = p[..., 2:, :] - p[..., :-2, :]
    dx = (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 8
    dy = (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 8
    return dx, dy


def corner_response(
    image: Float[Tensor, "b 1 h w"],
    sigma: float = 1.5,
    k: float = 0.05,
    kind: Literal["harris", "shi_tomasi"] = "harris",
) -> Float[Tensor, "b h w"]:
    """R of every pixel; differentiable."""
    dx, dy = sobel(image)
    a, b, c = gaussian_blur(torch.cat([dx * dx, dx * dy, dy * dy], 1), sigma).unbind(1)
    if kind == "harris":
        return a * c - b.square() - k * (a + c).square()
    return (a + c) / 2 - torch.sqrt(((a - c) / 2).square() + b.square() + 1e-20)


class HarrisCorner(System):
    """Detector of corners; nothing is learned.

    sigma: of the window, pixels. k: of R. kind: `harris` or `shi_tomasi`. quality: smallest R as a share of the largest.
    distance: pixels between corners. max_keypoints: the best are kept; 0 keeps all. flat: the largest R of a picture
    that has no corners.
    """

    answer = Keypoints

    def __init__(
        self,
        image_size: int = 512,
        sigma: float = 1.5,
        k: float = 0.05,
        kind: Literal["harris", "shi_tomasi"] = "harris",
        quality: float = 0.01,
        distance: int = 3,
        max_keypoints: int = 0,
        flat: float = 1e-9,
    ):
        super().__init__(InputContract(image_size, image_size, 1, resize="letterbox"))
        if sigma <= 0 or flat <= 0:
            raise ValueError(f"sigma, flat: expected positive numbers, got {sigma} and {flat}")
        if not 0 < k < 0.25:
            raise ValueError(f"k: expected a number in (0, 0.25), where R can be positive, got {k}")
        if kind not in ("harris", "shi_tomasi"):
            raise ValueError(f"kind: expected harris or shi_tomasi, got {kind!r}")
        if not 0 < quality < 1:
            raise ValueError(f"quality: expected a number in (0, 1), got {quality}")
        if distance < 1 or max_keypoints < 0:
            raise ValueError(f"distance, max_keypoints: expected at least 1 and 0, got {distance}, {max_keypoints}")
        self.sigma, self.k, self.kind, self.quality = sigma, k, kind, quality
        self.distance, self.max_keypoints, self.flat = distance, max_keypoints, flat

    def predict(self, batch: Batch) -> list[Keypoints]:
        if batch.pictures.shape[1] != 1:
            raise ValueError(f"image: expected 1 channel (grey), got {batch.pictures.shape[1]}")
        response = corner_response(batch.pictures, self.sigma, self.k, self.kind)
        window = 2 * self.distance + 1
        # the largest of the window around each pixel, one axis after the other
        highest = F.max_pool2d(response[:, None], (1, window), 1, (0, self.distance))
        highest = F.max_pool2d(highest, (window, 1), 1, (self.distance, 0))[:, 0]
        return [self._corners(r, h) for r, h in zip(response, highest)]

    def _corners(self, response: Float[Tensor, "h w"], highest: Float[Tensor, "h w"]) -> Keypoints:
        peak = (response == highest) & (response > max(self.flat, self.quality * float(response.max())))
        peak[0] = peak[-1] = peak[:, 0] = peak[:, -1] = False
        y, x = peak.nonzero(as_tuple=True)
        scores = response[y, x]
        points = torch.stack(
            [
                x + 0.5 + _vertex(response[y, x - 1], scores, response[y, x + 1]),
                y + 0.5 + _vertex(response[y - 1, x], scores, response[y + 1, x]),
            ],
            1,
        )
        order = scores.argsort(descending=True, stable=True)
        if self.max_keypoints:
            order = order[: self.max_keypoints]
        points, scores = points[order], scores[order]
        size, none = torch.full_like(scores, self.sigma), scores.new_zeros(len(scores), 0)
        return Keypoints(points, size, torch.zeros_like(scores), scores, none)


def _vertex(before: Tensor, here: Tensor, after: Tensor) -> Tensor:
    """Where the parabola through three neighbours is highest, from the middle one."""
    bend = before - 2 * here + after
    return torch.where(bend < 0, (before - after) / (2 * bend.clamp_max(-1e-30)), 0).clamp(-0.5, 0.5)


# the experiment ------------------------------------------------------------------------------------------------------


def about_centre(size: int, degrees: float, scale: float) -> Float[Tensor, "3 3"]:
    """A turn and a scaling that leave the middle of a `size` x `size` picture where it is."""
    angle, half = math.radians(degrees), size / 2
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    rows = [[c, -s, half - c * half + s * half], [s, c, half - s * half - c * half], [0, 0, 1]]
    return torch.tensor(rows, dtype=torch.float64)


def found_again(
    first: Float[Tensor, "n 2"], second: Float[Tensor, "m 2"], H: Float[Tensor, "3 3"], size: int, radius: float = 2.0
) -> tuple[int, int]:
    """Of the points that both `size` x `size` pictures show: how many of the picture with fewer the other has, of how many.

    Mikolajczyk and Schmid's repeatability, for pictures that show unlike many: those seen larger have more.
    """
    a, b = first[seen_in(H, first, size, size)], second[seen_in(torch.linalg.inv(H), second, size, size)]
    if not len(a) or not len(b):
        return 0, min(len(a), len(b))
    near = torch.cdist(apply_homography(H, a), b) <= radius
    return int(near.any(1 if len(a) <= len(b) else 0).sum()), min(len(a), len(b))


def experiment(size: int = 384, scenes: int = 8, zoom: float = 4.0, seed: int = 0) -> dict[str, float]:
    """World scenes turned and seen `zoom` times larger: how many Harris corners, and SIFT keypoints, are found again.

    Turned, away from the edge, where turning brings in what the other picture does not show.
    """
    world, grey = World(scenes, size=size, seed=seed), torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    maps = [about_centre(size, degrees, 1) for degrees in (30, 45, 90, 160)] + [about_centre(size, 0, zoom)]
    counts = {"": torch.zeros(len(maps), 2), "sift_": torch.zeros(len(maps), 2)}
    with torch.no_grad():
        for index in range(scenes):
            image = world[index].image
            assert image is not None
            picture = gaussian_blur((image * grey).sum(0)[None, None], 1.0)[0]  # so that interpolation is exact
            pictures = torch.stack([picture, *(warp(picture, H) for H in maps)])
            for name, system in (("", HarrisCorner(size)), ("sift_", SIFT(size))):
                whole = [answer.points.double() for answer in system.predict(images_only(pictures))]
                middle = [p[(p - size / 2).norm(dim=1) < 0.45 * size] for p in whole[:-1]]
                rows = [found_again(middle[0], p, H, size) for p, H in zip(middle[1:], maps)]
                counts[name] += torch.tensor([*rows, found_again(whole[0], whole[-1], maps[-1], size)])
    figures = {}
    for name, pairs in counts.items():
        share = pairs[:, 0] / pairs[:, 1].clamp_min(1)
        figures[f"{name}rotation_repeatability"] = float(share[:-1].mean())
        figures[f"{name}scale_repeatability"] = float(share[-1])
    return figures
