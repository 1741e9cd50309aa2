"""The fully connected CRF: its mean field by hand, the fast sums against the exact ones, borders of World scenes."""

import math
from functools import cache

import pytest
import torch
from torch.nn import functional as F

from oculi.data.sources import open_data
from oculi.metrics.segmentation import mean_iou, pixel_confusion
from oculi.segment.dense_crf import Kernels, dense_crf, exact_sums, fast_sums, low_rank
from oculi.types import Batch

STATED = 0.01  # how far probabilities of the fast mean field may be from the exact one's


def by_hand(image, probabilities, k: Kernels, steps):
    """Pixel by pixel, in Python's numbers."""
    classes, height, width = probabilities.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    n = len(pixels)

    def gaussian(i, j, places, colours):
        (y, x), (v, u) = pixels[i], pixels[j]
        exponent = ((y - v) ** 2 + (x - u) ** 2) / (2 * places**2)
        if colours:
            exponent += sum((float(c[y, x]) - float(c[v, u])) ** 2 for c in image) / (2 * colours**2)
        return math.exp(-exponent)

    total = [[0.0] * n for _ in range(n)]
    for weight, *widths in (
        (k.appearance, k.appearance_places, k.appearance_colours),
        (k.smoothness, k.smoothness_places, 0.0),
    ):
        kernel = [[gaussian(i, j, *widths) for j in range(n)] for i in range(n)]
        sums = [sum(row) if k.normalized else 1.0 for row in kernel]
        for i in range(n):
            for j in range(n):
                total[i][j] += weight * kernel[i][j] / math.sqrt(sums[i] * sums[j]) if i != j else 0.0
    p = [[float(probabilities[c, y, x]) for c in range(classes)] for y, x in pixels]
    q = p
    for _ in range(steps):
        said = [
            [p[i][c] * math.exp(sum(total[i][j] * q[j][c] for j in range(n))) for c in range(classes)] for i in range(n)
        ]
        q = [[value / sum(row) for value in row] for row in said]
    return torch.tensor(q).T.reshape(classes, height, width)


@pytest.mark.parametrize("normalized", [True, False])
def test_the_mean_field_by_hand(normalized):
    generator = torch.Generator().manual_seed(0)
    image, given = torch.rand(1, 3, 4, 5, generator=generator), torch.rand(1, 3, 4, 5, generator=generator)
    given = given / given.sum(1, keepdim=True)
    kernels = Kernels(1.5, 3.0, 0.4, 0.7, 1.2, normalized)
    expected = by_hand(image[0], given[0], kernels, 2)
    torch.testing.assert_close(dense_crf(image, given, kernels, 2, exact=True)[0], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dense_crf(image, given, kernels, 2, tolerance=1e-6)[0], expected, rtol=1e-4, atol=1e-5)


@cache
def scenes():
    options = {"task": "segmentation", "size": 64, "radius": [0.9, 1.4], "fov": 40}
    splits = open_data("world", train=4, validation=1, test=1, **options)
    return Batch.of([splits.train[k] for k in range(4)])


def unsure(semantic, cell: int, confidence: float = 0.8):
    """What a network of coarse scores says of the truth: its means over cells, enlarged, and never quite sure."""
    truth = F.one_hot(semantic, 6).movedim(-1, 1).float()
    coarse = F.interpolate(F.avg_pool2d(truth, cell), size=semantic.shape[1:], mode="bilinear")
    return confidence * coarse + (1 - confidence) / 6


def near_borders(semantic, distance: int = 2):
    """Pixels within `distance` of a border between classes."""
    value = semantic[:, None].float()
    reach = 2 * distance + 1
    return (F.max_pool2d(value, reach, 1, distance) != -F.max_pool2d(-value, reach, 1, distance))[:, 0]


def test_the_fast_sums_are_within_the_stated_tolerance():
    batch = scenes()
    image, semantic = batch.image[:2, :, 16:48, 12:52], batch.semantic[:2, 16:48, 12:52]
    given = unsure(semantic, 8)
    exact, fast = (dense_crf(image, given, exact=exact) for exact in (True, False))
    assert float((exact - given).abs().max()) > 0.3
    assert float((exact - fast).abs().max()) <= STATED
    assert float((exact.argmax(1) == fast.argmax(1)).float().mean()) > 0.999


@pytest.mark.parametrize("tolerance", [0.1, 1e-3])
def test_a_factor_of_low_rank_is_within_its_tolerance(tolerance):
    generator = torch.Generator().manual_seed(0)
    features = 3 * torch.rand(400, 3, generator=generator)
    kernel = torch.exp(-0.5 * torch.cdist(features, features).square())
    factor = low_rank(features, tolerance, 250)
    assert factor.shape[1] < 250
    assert float((kernel - factor @ factor.T).abs().max()) <= tolerance + 1e-5
    assert low_rank(torch.zeros(50, 3), tolerance, 1).shape == (50, 1)
    assert low_rank(features, tolerance, 5) is None


def test_noise_is_left_to_the_exact_sums():
    picture, values = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.rand(256, 2)
    sums = fast_sums(picture, Kernels(appearance_colours=0.01))
    assert torch.equal(sums(values), exact_sums(picture, Kernels(appearance_colours=0.01))(values))


def test_the_sums_themselves():
    picture = scenes().image[0, :, :32, :24]
    values = torch.rand(32 * 24, 3, generator=torch.Generator().manual_seed(0))
    for kernels in (Kernels(), Kernels(normalized=False), Kernels(appearance=0.0)):
        exact, fast = exact_sums(picture, kernels)(values), fast_sums(picture, kernels, 1e-5)(values)
        torch.testing.assert_close(exact, fast, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(exact, exact_sums(picture, kernels, rows=50)(values), rtol=1e-5, atol=1e-5)


def test_blurred_truth_gets_its_shapes_back():
    batch = scenes()
    given = unsure(batch.semantic, 4, 0.6)
    given = given + 0.15 * torch.rand(given.shape, generator=torch.Generator().manual_seed(0))
    given = given / given.sum(1, keepdim=True)
    before, after = (
        mean_iou(pixel_confusion(p.argmax(1), batch.semantic, 6)) for p in (given, dense_crf(batch.image, given))
    )
    assert after > before


def test_coarse_scores_gain_at_the_borders_as_in_the_first_deeplab():
    batch = scenes()
    given = unsure(batch.semantic, 8)
    truth = batch.semantic.masked_fill(~near_borders(batch.semantic), 255)
    before, after = (mean_iou(pixel_confusion(p.argmax(1), truth, 6)) for p in (given, dense_crf(batch.image, given)))
    assert after >= before + 0.05


def test_what_changes_nothing():
    batch = scenes()
    given = unsure(batch.semantic, 8)
    assert torch.equal(dense_crf(batch.image, given, steps=0), given)
    silent = dense_crf(batch.image, given, Kernels(0.0, smoothness=0.0))
    torch.testing.assert_close(silent, given, rtol=1e-4, atol=1e-5)
    alone = dense_crf(batch.image[1:2], given[1:2])
    assert torch.equal(dense_crf(batch.image, given)[1:2], alone)


@pytest.mark.unchecked
def test_bad_input_is_named():
    image, given = torch.zeros(1, 3, 4, 4), torch.full((1, 2, 4, 4), 0.5)
    with pytest.raises(ValueError, match="probabilities: expected a map for pictures of"):
        dense_crf(image, given[..., :3])
    with pytest.raises(ValueError, match="steps, tolerance"):
        dense_crf(image, given, tolerance=0.0)
    with pytest.raises(ValueError, match="smoothness: expected a weight of 0 or more, got -1"):
        Kernels(smoothness=-1.0)
    with pytest.raises(ValueError, match="appearance_colours: expected a positive width"):
        Kernels(appearance_colours=0.0)
