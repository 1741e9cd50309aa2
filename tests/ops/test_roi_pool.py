"""RoI pooling: the worked example, its fast twin, gradients, and why RoI Align came."""

import pytest
import torch

from oculi.ops.roi_align import roi_align
from oculi.ops.roi_pool import looked_up_roi_pool, roi_pool

MAP = torch.tensor([[0.1, 0.5, 0.48, 0.45], [0.6, 0.68, 0.62, 0.15], [0.32, 0.2, 0.284, 0.15], [0.84, 0.34, 0.34, 0.1]])
BOTH = pytest.mark.parametrize("function", [roi_pool, looked_up_roi_pool], ids=["fast", "readable"])


def random_boxes(n, seed=0, side=20.0):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, n, 2, generator=g) * side * 1.2 - side * 0.2
    return torch.cat([corner, corner + torch.rand(2, n, 2, generator=g) * side], -1)


@BOTH
def test_the_worked_example(function):
    pooled = function(MAP[None, None], torch.tensor([[[0.0, 0, 3, 3]]]), 2)
    assert pooled[0, 0, 0].tolist() == [pytest.approx([0.68, 0.62]), pytest.approx([0.84, 0.34])]


@BOTH
def test_regions_snap_to_whole_cells_and_bins_may_share_one(function):
    # 0.4 .. 2.4 of a map at half the scale: cells 0 .. 1; three bins of two cells take 0, both, 1
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    pooled = function(ramp, torch.tensor([[[0.8, 0.8, 2.8, 2.8]]]), 3, 0.5)
    assert pooled[0, 0, 0, 0].tolist() == [0, 1, 1]


@BOTH
def test_what_is_outside_is_zero_and_a_point_is_one_cell(function):
    ones = torch.full((1, 1, 4, 4), -1.0)
    boxes = torch.tensor([[[10.0, 10, 12, 12], [2, 2, 2, 2], [2, 0, 5, 3]]])
    pooled = function(ones, boxes, 2)[0, :, 0]
    assert pooled[0].tolist() == [[0, 0], [0, 0]]
    assert pooled[1].tolist() == [[-1, -1], [-1, -1]]
    assert pooled[2].tolist() == [[-1, 0], [-1, 0]]


@pytest.mark.parametrize(("size", "scale"), [(1, 1.0), (2, 0.5), (7, 1.0), (7, 0.25)])
def test_fast_equals_readable_to_the_bit(size, scale):
    torch.manual_seed(1)
    features, boxes = torch.randn(2, 3, 13, 17), random_boxes(12, size)
    assert torch.equal(roi_pool(features, boxes, size, scale), looked_up_roi_pool(features, boxes, size, scale))


def test_gradient_goes_to_the_largest():
    torch.manual_seed(0)
    boxes, grads = random_boxes(5), []
    for function in (roi_pool, looked_up_roi_pool):
        features = torch.randn(2, 2, 12, 12, generator=torch.Generator().manual_seed(2)).requires_grad_()
        (function(features, boxes, 3) ** 2).sum().backward()
        grads.append(features.grad)
    torch.testing.assert_close(*grads)


def test_half_a_pixel_is_lost_which_roi_align_keeps():
    ramp = torch.arange(16.0).expand(1, 1, 16, 16) + 0.5
    boxes = torch.tensor([[[2.0, 2, 9, 9], [2.4, 2, 9.4, 9]]])
    pooled, aligned = roi_pool(ramp, boxes, 7), roi_align(ramp, boxes, 7)
    assert torch.equal(pooled[0, 0], pooled[0, 1])
    torch.testing.assert_close(aligned[0, 1] - aligned[0, 0], torch.full((1, 7, 7), 0.4))


def test_no_regions_and_bad_input():
    assert roi_pool(torch.rand(2, 3, 4, 4), torch.zeros(2, 0, 4), 7).shape == (2, 0, 3, 7, 7)
    with pytest.raises(ValueError, match="size"):
        roi_pool(torch.rand(1, 1, 4, 4), torch.zeros(1, 1, 4), 0)
