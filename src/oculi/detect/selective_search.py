r"""Selective search: boxes that may hold something, of no class and without learning, from a hierarchy of regions.

    start     an over-segmentation (Felzenszwalb and Huttenlocher: components join while the difference between them is
              at most that inside them)
    merge     the two most alike neighbours, again and again, until one region is left; every region's box is a proposal
    alike     s_colour + s_texture + s_size + s_fill, each in [0, 1]:

        s_colour  = sum_k min(c_i(k), c_j(k))        histograms of 25 bins per channel, sum 1
        s_texture = sum_k min(t_i(k), t_j(k))        of derivatives in 8 directions, 10 bins per channel and direction, sum 1
        s_size    = 1 - (|i| + |j|) / |picture|      small regions join early
        s_fill    = 1 - (|box of both| - |i| - |j|) / |picture|

A merged region's histograms are the means of its parts', weighted by their sizes. Several starts (scales, colour spaces)
give several hierarchies; boxes come largest regions first, the hierarchies in turn, each box once. The paper shuffles
that order a little; derivatives here are central differences.

Uijlings, van de Sande, Gevers, Smeulders: Selective Search for Object Recognition, IJCV 2013.
Felzenszwalb, Huttenlocher: Efficient Graph-Based Image Segmentation, IJCV 2004 (scikit-image's, the extra `science`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

COLOUR_BINS, TEXTURE_BINS, DIRECTIONS = 25, 10, 8
SCALES, SPACES, SIGMA, LEAST_PIXELS = (40.0, 120.0), ("rgb", "lab"), 0.5, 12
MOST_REMEMBERED = 50_000

Array = np.ndarray


def selective_search(
    image: Float[Tensor, "3 h w"],
    most: int = 500,
    scales: Sequence[float] = SCALES,
    spaces: Sequence[str] = SPACES,
    sigma: float = SIGMA,
    least: int = LEAST_PIXELS,
) -> Float[Tensor, "n 4"]:
    """At most `most` boxes (x1 y1 x2 y2 in pixels) of a picture in [0, 1].

    scales: the larger, the larger the regions of the start; spaces: `rgb`, `lab`; sigma: of the blur before; least: pixels
    of a region.
    """
    if most < 1 or not scales or not spaces:
        raise ValueError(f"most, scales, spaces: expected at least one, got {most}, {scales} and {spaces}")
    pixels = image.permute(1, 2, 0).double().cpu().numpy()
    hierarchies = []
    for space in spaces:
        coloured = _coloured(pixels, space)
        for scale in scales:
            boxes = group(coloured, start(coloured, scale, sigma, least))
            hierarchies.append(map(tuple, boxes[::-1].tolist()))
    ordered = [box for level in zip_longest(*hierarchies) for box in level if box is not None]
    found = torch.tensor(list(dict.fromkeys(ordered))[:most], dtype=torch.float32)
    return found.to(image.device)


def start(pixels: Float[Array, "h w 3"], scale: float, sigma: float, least: int) -> Array:
    """The over-segmentation: a region number from 0 for every pixel."""
    from skimage.segmentation import felzenszwalb

    return np.asarray(felzenszwalb(pixels, scale=scale, sigma=sigma, min_size=least, channel_axis=-1))


def group(pixels: Float[Array, "h w 3"], regions: Array) -> Float[Array, "n 4"]:
    """Boxes of all regions of the hierarchy over `regions`, those of the start first, the whole picture last."""
    count, area = int(regions.max()) + 1, regions.size
    size = np.bincount(regions.ravel(), minlength=count).astype(float)
    histograms = np.concatenate([colours(pixels, regions), textures(pixels, regions)], 1)
    boxes, near = _boxes(regions, count), _neighbours(regions, count)
    alike = np.full((count, count), -np.inf)
    for i in range(count):
        alike[i] = np.where(near[i], similarity(i, histograms, size, boxes, area), -np.inf)
    found = [boxes.copy()]
    for _ in range(count - 1):
        i, j = divmod(int(alike.argmax()), count)
        share = size[i] / (size[i] + size[j])
        histograms[i] = share * histograms[i] + (1 - share) * histograms[j]
        size[i] += size[j]
        boxes[i] = _hull(boxes[i], boxes[j])
        found.append(boxes[i : i + 1].copy())
        near[i] |= near[j]
        near[:, i] |= near[:, j]
        near[j] = near[:, j] = False
        near[i, i] = False
        alike[j] = alike[:, j] = -np.inf
        alike[i] = alike[:, i] = np.where(near[i], similarity(i, histograms, size, boxes, area), -np.inf)
    return np.concatenate(found)


def similarity(
    i: int, histograms: Float[Array, "n bins"], size: Float[Array, " n"], boxes: Float[Array, "n 4"], area: int
) -> Float[Array, " n"]:
    """How alike region i and each of the others are, 0 to 4."""
    shared = np.minimum(histograms[i], histograms).sum(1)
    hull = _hull(boxes[i], boxes)
    both = size[i] + size
    fill = 1 - ((hull[:, 2:] - hull[:, :2]).prod(1) - both) / area
    return shared + (1 - both / area) + fill


def colours(pixels: Float[Array, "h w 3"], regions: Array) -> Float[Array, "n bins"]:
    """Histograms of values in [0, 1], 25 bins of each channel, each region's sum 1."""
    return _histograms((pixels * COLOUR_BINS).astype(int).clip(0, COLOUR_BINS - 1), regions, COLOUR_BINS)


def textures(pixels: Float[Array, "h w 3"], regions: Array) -> Float[Array, "n bins"]:
    """Histograms of how fast values rise in 8 directions, 10 bins of each channel and direction, each region's sum 1."""
    down, across = np.gradient(pixels, axis=(0, 1))
    angle = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    rise = (across[..., None] * np.cos(angle) + down[..., None] * np.sin(angle)).clip(0)
    rise = rise.reshape(*regions.shape, -1)
    bins = (rise / max(rise.max(), 1e-9) * TEXTURE_BINS).astype(int).clip(0, TEXTURE_BINS - 1)
    return _histograms(bins, regions, TEXTURE_BINS)


def _histograms(bins: Array, regions: Array, most: int) -> Float[Array, "n bins"]:
    count, channels = int(regions.max()) + 1, bins.shape[-1]
    place = (regions[..., None] * channels + np.arange(channels)) * most + bins
    counted = np.bincount(place.ravel(), minlength=count * channels * most).reshape(count, -1).astype(float)
    return counted / counted.sum(1, keepdims=True).clip(1)


def _boxes(regions: Array, count: int) -> Float[Array, "n 4"]:
    y, x = np.indices(regions.shape).reshape(2, -1)
    flat, boxes = regions.ravel(), np.zeros((count, 4))
    boxes[:, :2] = np.inf
    for axis, value in ((0, x), (1, y)):
        np.minimum.at(boxes[:, axis], flat, value)
        np.maximum.at(boxes[:, axis + 2], flat, value + 1)
    return boxes


def _hull(one: Array, others: Array) -> Array:
    """The box around both."""
    return np.concatenate([np.minimum(one, others)[..., :2], np.maximum(one, others)[..., 2:]], -1)


def _neighbours(regions: Array, count: int) -> Bool[Array, "n n"]:
    near = np.zeros((count, count), dtype=bool)
    for a, b in ((regions[:, :-1], regions[:, 1:]), (regions[:-1], regions[1:])):
        near[a, b] = near[b, a] = True
    np.fill_diagonal(near, False)
    return near


def _coloured(pixels: Array, space: str) -> Float[Array, "h w 3"]:
    """The picture in a colour space, each channel in [0, 1]."""
    if space == "rgb":
        return pixels
    if space == "lab":
        from skimage.color import rgb2lab

        return ((rgb2lab(pixels) + np.array([0, 128, 128])) / np.array([100, 255, 255])).clip(0, 1)
    raise ValueError(f"spaces: expected rgb or lab, got {space!r}")


class SelectiveSearch:
    """Proposals of whole batches, remembered by picture, since training shows the same pictures again and again."""

    def __init__(self, most: int = 500):
        self.most = most
        self.known: dict[bytes, Tensor] = {}

    def __call__(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b p 4"], Bool[Tensor, "b p"]]:
        """Boxes of each picture, and which of them are real: some pictures have fewer. At least one place."""
        found = [self._of(image) for image in (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu()]
        boxes = torch.nn.utils.rnn.pad_sequence(found, batch_first=True)
        real = torch.arange(boxes.shape[1]) < torch.tensor([len(one) for one in found])[:, None]
        return boxes.to(images.device), real.to(images.device)

    def _of(self, pixels: Tensor) -> Float[Tensor, "n 4"]:
        key = hashlib.blake2b(pixels.contiguous().numpy().tobytes(), digest_size=16).digest()
        if key not in self.known:
            if len(self.known) >= MOST_REMEMBERED:
                self.known.clear()
            self.known[key] = selective_search(pixels.expand(3, -1, -1).float() / 255, self.most)
        return self.known[key]
