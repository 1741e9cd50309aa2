"""Separable convolution: the dense convolution with its rank-one kernel, at the cost that the formula gives."""

import pytest
import torch
from torch.nn import functional as F

from oculi.nn.separable import SeparableConv, depthwise_conv, separable_cost


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (3, 1, 2), (5, 1, 3), (1, 1, 1)])
def test_it_is_a_dense_convolution_of_rank_one(kernel, stride, dilation):
    torch.manual_seed(0)
    separable, x = SeparableConv(6, 9, kernel, stride, dilation), torch.randn(2, 6, 13, 11)
    padding = dilation * (kernel // 2)
    dense = F.conv2d(x, separable.dense_kernel(), stride=stride, padding=padding, dilation=dilation)
    torch.testing.assert_close(separable(x), dense, rtol=1e-5, atol=1e-5)
    assert separable(x).shape[2:] == (-(-13 // stride), -(-11 // stride))
    rank = torch.linalg.matrix_rank(separable.dense_kernel()[:, 0].flatten(1))
    assert int(rank) == 1


@pytest.mark.parametrize(("inputs", "outputs", "kernel"), [(32, 64, 3), (64, 128, 3), (5, 7, 5)])
def test_its_cost_is_exact(inputs, outputs, kernel):
    separable = SeparableConv(inputs, outputs, kernel)
    weights = sum(p.numel() for p in separable.parameters())
    assert weights / separable.dense_kernel().numel() == pytest.approx(separable_cost(outputs, kernel), rel=1e-12)


def test_depthwise_never_mixes_channels():
    conv, x = depthwise_conv(32), torch.randn(1, 32, 6, 6)
    assert conv.weight.shape == (32, 1, 3, 3)
    before = conv(x)
    x[:, 5] += 1
    changed = (conv(x) - before).abs().amax((0, 2, 3)) > 1e-6
    assert changed.nonzero().tolist() == [[5]]


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match="kernel: expected an odd size"):
        SeparableConv(2, 3, 4)
