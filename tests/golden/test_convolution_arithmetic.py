"""Worked numbers of layers: sizes, receptive fields, parameters, multiply-adds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from oculi.ops.convolution_arithmetic import (
    conv_multiply_adds,
    conv_output_size,
    parameter_count,
    pool_output_size,
    receptive_field,
    same_padding_rule,
    transposed_output_size,
)

SIDES = st.integers(1, 4)


def test_conv_output_size():
    assert conv_output_size(32, 5) == 28
    assert conv_output_size(14, 5) == 10
    assert conv_output_size(224, 7, stride=2, padding=3) == 112
    with pytest.raises(ValueError, match="at least 5 for a filter of reach 5, got 4"):
        conv_output_size(4, 3, dilation=2)
    with pytest.raises(ValueError, match="stride: expected a positive number, got 0"):
        conv_output_size(4, 3, stride=0)


@settings(deadline=None, max_examples=40)
@given(st.integers(13, 30), SIDES, SIDES, st.integers(0, 2), SIDES)
def test_sizes_are_torchs(size, kernel, stride, padding, dilation):
    x = torch.zeros(1, 1, size)
    found = conv_output_size(size, kernel, stride, padding, dilation)
    assert nn.Conv1d(1, 1, kernel, stride, padding, dilation)(x).shape[-1] == found
    back = transposed_output_size(found, kernel, stride, padding, dilation)
    assert (
        nn.ConvTranspose1d(1, 1, kernel, stride, padding, 0, 1, True, dilation)(torch.zeros(1, 1, found)).shape[-1]
        == back
    )
    assert size - stride < back <= size  # a convolution's own input, but for the rows that its stride skipped


def test_pool_output_size():
    assert pool_output_size(28, 2) == 14
    assert pool_output_size(10, 2) == 5
    for size, kernel, stride in [(9, 2, 2), (13, 3, 2), (7, 3, 1)]:
        assert nn.MaxPool1d(kernel, stride)(torch.zeros(1, 1, size)).shape[-1] == pool_output_size(size, kernel, stride)


def test_same_padding_rule():
    assert same_padding_rule(3) == 1
    assert same_padding_rule(5) == 2
    for kernel, dilation in [(1, 1), (3, 1), (5, 2), (4, 2), (7, 3)]:
        padded = nn.Conv2d(1, 1, kernel, padding=same_padding_rule(kernel, dilation), dilation=dilation)
        same = nn.Conv2d(1, 1, kernel, padding="same", dilation=dilation)
        same.load_state_dict(padded.state_dict())
        x = torch.rand(1, 1, 21, 19)
        torch.testing.assert_close(padded(x), same(x))
    with pytest.raises(ValueError, match="odd side, got 4"):
        same_padding_rule(4)


def test_receptive_field():
    assert receptive_field([]) == 1
    assert receptive_field([(3, 1), (3, 1)]) == 5
    assert receptive_field([(3, 1, 2)]) == 5
    assert receptive_field([(5, 1), (2, 2), (5, 1), (2, 2)]) == 16  # LeNet's second pooling
    resnet50 = [(7, 2), (3, 2), *[(3, 1)] * 3, (3, 2), *[(3, 1)] * 3, (3, 2), *[(3, 1)] * 5, (3, 2), *[(3, 1)] * 2]
    assert receptive_field(resnet50) == 427


def test_parameter_count():
    widths = [3, 4, 4, 1]
    assert sum(widths[1:]) == 9  # neurons that are no inputs
    assert parameter_count(widths, bias=False) == 12 + 16 + 4 == 32
    assert parameter_count(widths) == 41
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1))
    assert sum(p.numel() for p in network.parameters()) == 41
    with pytest.raises(ValueError, match="at least two positive numbers"):
        parameter_count([3])


def test_conv_multiply_adds():
    assert conv_multiply_adds((3, 3), 64, 128, (1, 1)) == 73_728
    separable = conv_multiply_adds((3, 3), 64, 64, (1, 1), 64) + conv_multiply_adds((1, 1), 64, 128, (1, 1))
    assert separable == 576 + 8_192 == 8_768
    dense, separable = (conv_multiply_adds((3, 3), 32, 64, (7, 5)), conv_multiply_adds((3, 3), 32, 32, (7, 5), 32))
    separable += conv_multiply_adds((1, 1), 32, 64, (7, 5))
    assert separable / dense == pytest.approx(1 / 64 + 1 / 9)
    assert separable / dense == pytest.approx(0.126736, abs=1e-6)
    with pytest.raises(ValueError, match="divisor of 6 and 8, got 4"):
        conv_multiply_adds((3, 3), 6, 8, (1, 1), groups=4)
