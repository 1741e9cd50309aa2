"""What a convolution is: equivariant, dilated by zeros, averaged; and the layout that pictures come in."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oculi.input_contract import InputContract


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (2, 1)])
def test_a_shifted_picture_gives_a_shifted_map_and_a_linear_layer_another_one(stride, dilation):
    torch.manual_seed(0)
    layer, image = nn.Conv2d(2, 3, 3, stride, dilation=dilation), torch.rand(1, 2, 16, 16)
    moved = F.pad(image, (4, -4, 2, -2))
    here, there = layer(image), layer(moved)
    down, right = 2 // stride, 4 // stride
    torch.testing.assert_close(there[..., down:, right:], here[..., : here.shape[-2] - down, : here.shape[-1] - right])
    linear = nn.Linear(256, 256).requires_grad_(False)
    here, there = (linear(x[:, 0].flatten(1)).reshape(16, 16) for x in (image, moved))
    assert float((there[2:, 4:] - here[:-2, :-4]).abs().max()) > 0.1
    pooled = [F.relu(layer(x)).amax((2, 3)) for x in (F.pad(image, (8,) * 4), F.pad(image, (10, 6, 10, 6)))]
    torch.testing.assert_close(*pooled)  # invariance comes from pooling


@pytest.mark.parametrize("dilation", [2, 3])
def test_a_dilated_convolution_is_a_dense_one_with_zeros_between(dilation):
    torch.manual_seed(0)
    weight, image = torch.randn(4, 3, 3, 3), torch.randn(2, 3, 20, 20)
    extent = 2 * dilation + 1  # (k - 1) d + 1
    dense = torch.zeros(4, 3, extent, extent)
    dense[..., ::dilation, ::dilation] = weight
    torch.testing.assert_close(F.conv2d(image, weight, dilation=dilation), F.conv2d(image, dense), rtol=0, atol=1e-4)
    impulse = torch.zeros(1, 1, 21, 21)
    impulse[..., 10, 10] = 1
    seen = F.conv2d(impulse, torch.ones(1, 1, 3, 3), padding=dilation, dilation=dilation)[0, 0].nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [extent, extent]


def test_average_pooling_is_a_convolution_with_equal_weights():
    image = torch.rand(2, 3, 8, 8)
    weight = torch.full((3, 1, 2, 2), 0.25)
    torch.testing.assert_close(F.avg_pool2d(image, 2), F.conv2d(image, weight, stride=2, groups=3))


def test_pictures_are_batch_channels_height_width():
    contract = InputContract(572, 400)
    arrays = [np.zeros((600, 500, 3), np.uint8) for _ in range(2)]
    arrays[0][:, :, 2] = 255  # blue is the last channel
    tensor = contract.batch(arrays)
    assert tensor.shape == (2, 3, 572, 400)
    assert float(tensor[0, 2].min()) == 1
    assert float(tensor[0, :2].max()) == 0
