"""Convolution blocks: what they are made of, worked numbers, and 1x1 convolution as a linear layer at every pixel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from oculi.nn.convolution import average_to, conv_relu, fan_in_init


@pytest.mark.parametrize(
    ("norm", "kinds"), [(False, [nn.Conv2d, nn.ReLU]), (True, [nn.Conv2d, nn.BatchNorm2d, nn.ReLU])]
)
def test_conv_relu_is_convolution_norm_and_relu(norm, kinds):
    block = conv_relu(3, 8, 5, 2, norm=norm)
    assert [type(layer) for layer in block] == kinds
    assert block[0].bias is not None
    assert block(torch.rand(2, 3, 17, 12)).shape == (2, 8, 9, 6)
    assert float(block(torch.randn(2, 3, 17, 12)).detach().min()) >= 0


def test_padding_can_be_given():
    assert conv_relu(3, 4, 3, 2, padding=0)(torch.rand(1, 3, 64, 64)).shape == (1, 4, 31, 31)


@settings(max_examples=20, deadline=None)
@given(inputs=st.integers(1, 6), outputs=st.integers(1, 6), height=st.integers(1, 5), width=st.integers(1, 5))
def test_a_1x1_convolution_is_a_linear_layer_at_every_pixel(inputs, outputs, height, width):
    conv = conv_relu(inputs, outputs, 1)[0]
    x = torch.randn(2, inputs, height, width)
    expected = F.linear(x.permute(0, 2, 3, 1), conv.weight[:, :, 0, 0], conv.bias).permute(0, 3, 1, 2)
    torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-5)


def test_average_to_averages_windows_and_leaves_what_fits():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert average_to(x, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert average_to(x, 4) is x
    assert average_to(x[..., :1, :1], 3).shape == (1, 1, 3, 3)


def test_fan_in_init_keeps_the_size_of_what_passes():
    torch.manual_seed(0)
    network = nn.Sequential(*(conv_relu(a, b, 3) for a, b in ((8, 64), (64, 8), (8, 64), (64, 64))), nn.Linear(32, 4))
    fan_in_init(network)
    x = torch.randn(4, 8, 32, 32)
    size = float(network[:4](x).detach().square().mean() / x.square().mean())
    assert 0.5 < size < 2  # by fan-out the narrow layers would make it 8 times as large or small
    assert all(bool((m.bias == 0).all()) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))
