"""RoI Align: both forms against torchvision's, its rule at the border sample by sample, and linear ramps."""

import math

import pytest
import torch

import oracles
from oculi.ops.roi_align import roi_align, sampled_roi_align

FORMS = pytest.mark.parametrize("pool", [roi_align, sampled_roi_align])
ALIGNED = pytest.mark.parametrize("aligned", [True, False])


def random_rois(n, images, side, seed=0, outside=0.0):
    g = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 2, generator=g) * side * (0.85 + outside) - outside * side
    size = (0.1 + torch.rand(n, 2, generator=g) * 0.6) * side
    high = low + size if outside else torch.minimum(low + size, torch.tensor(float(side)))
    return torch.cat([low, high], 1).reshape(images, -1, 4)


def listed(boxes):
    """The same boxes as torchvision wants them, each after the number of its picture."""
    image = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1])
    return torch.cat([image[:, None].to(boxes), boxes.flatten(0, 1)], 1)


@FORMS
@ALIGNED
@pytest.mark.parametrize(("size", "scale", "samples"), [(7, 0.25, 2), (3, 1.0, 1), (2, 0.5, 3)])
def test_equals_torchvision_inside_the_picture(pool, aligned, size, scale, samples):
    oracles.torchvision()
    from torchvision.ops.roi_align import _roi_align

    torch.manual_seed(0)
    features = torch.randn(2, 3, int(40 * scale), int(48 * scale))
    rois = random_rois(20, 2, 40)
    expected = _roi_align.__wrapped__(features, listed(rois), scale, size, size, samples, aligned)
    given = pool(features, rois, size, scale, samples, aligned).flatten(0, 1)
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)


def kernel_sample(plane, y, x):
    """One sample as torchvision's kernels take it: zero beyond one cell from the map, the border's value up to there."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    value = 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    for i, a in ((math.floor(y), 1 - y % 1), (min(math.floor(y) + 1, height - 1), y % 1)):
        for j, b in ((math.floor(x), 1 - x % 1), (min(math.floor(x) + 1, width - 1), x % 1)):
            value += float(plane[i, j]) * a * b
    return value


@FORMS
@ALIGNED
def test_samples_outside_follow_the_kernels(pool, aligned):
    """torchvision's compiled kernels drop such samples; its Python form repeats the border instead."""
    torch.manual_seed(0)
    features, size, samples = torch.randn(2, 1, 5, 6), 2, 2
    rois = random_rois(12, 2, 6, seed=1, outside=0.7)
    expected = torch.zeros(12, 1, size, size)
    for n, (image, x1, y1, x2, y2) in enumerate(listed(rois).tolist()):
        shift = 0.5 * aligned
        wide, tall = (max(v, 0 if aligned else 1) for v in (x2 - x1, y2 - y1))
        for p in range(size * samples):
            for q in range(size * samples):
                y = y1 - shift + tall * (p + 0.5) / (size * samples)
                x = x1 - shift + wide * (q + 0.5) / (size * samples)
                share = kernel_sample(features[int(image), 0], y, x) / samples**2
                expected[n, 0, p // samples, q // samples] += share
    assert (expected == 0).any(), "some samples are far outside"
    given = pool(features, rois, size, 1.0, samples, aligned).flatten(0, 1)
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_both_forms_agree_in_value_and_gradient(seed):
    torch.manual_seed(seed)
    features = torch.randn(3, 4, 9, 7, dtype=torch.float64, requires_grad=True)
    rois = random_rois(15, 3, 36, seed, outside=0.3).double()
    outputs = [pool(features, rois, 3, 0.25) for pool in (roi_align, sampled_roi_align)]
    torch.testing.assert_close(*outputs)
    weight = torch.randn_like(outputs[0])
    torch.testing.assert_close(*(torch.autograd.grad((o * weight).sum(), features)[0] for o in outputs))


@FORMS
def test_a_linear_ramp_gives_its_value_at_the_bin_centres(pool):
    y, x = torch.meshgrid(torch.arange(20) + 0.5, torch.arange(24) + 0.5, indexing="ij")
    ramp = (2 * x - 3 * y + 1)[None, None]
    box = torch.tensor([[[3.3, 2.2, 17.8, 14.7]]])
    steps = (torch.arange(5) + 0.5) / 5
    across, down = 3.3 + 14.5 * steps, 2.2 + 12.5 * steps
    expected = 2 * across[None] - 3 * down[:, None] + 1
    torch.testing.assert_close(pool(ramp, box, 5)[0, 0, 0], expected, rtol=1e-5, atol=1e-4)
    left, top, right, bottom = (round(v) for v in box[0, 0].tolist())  # RoI Pool: whole cells, their maximum
    rough = torch.nn.functional.adaptive_max_pool2d(ramp[..., top : bottom + 1, left : right + 1], 5)[0, 0]
    assert (rough - expected).abs().min() > 0.1


def test_large_maps_are_looked_up(monkeypatch):
    features, rois = torch.randn(1, 2, 65, 64), random_rois(3, 1, 64)
    monkeypatch.setattr("oculi.ops.roi_align._weights", None)
    assert torch.equal(roi_align(features, rois, 2), sampled_roi_align(features, rois, 2))


@FORMS
def test_no_regions_and_bad_arguments(pool):
    features = torch.randn(2, 3, 4, 4)
    assert pool(features, torch.zeros(2, 0, 4), 7).shape == (2, 0, 3, 7, 7)
    with pytest.raises(ValueError, match="samples"):
        pool(features, torch.zeros(2, 1, 4), 7, samples=0)
