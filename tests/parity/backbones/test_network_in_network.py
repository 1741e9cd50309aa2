"""Network in Network against the paper's layers written out one by one: outputs, gradients, the number of parameters."""

from itertools import pairwise

import torch
from torch import nn

from agreement import copy_in_order
from oculi.backbones.network_in_network import NetworkInNetwork


def by_hand():
    """The CIFAR-10 network of the paper, layer by layer."""
    layers = []
    for inputs, (kernel, widths) in zip(
        (3, 96, 192), ((5, (192, 160, 96)), (5, (192, 192, 192)), (3, (192, 192))), strict=True
    ):
        layers += [nn.Conv2d(inputs, widths[0], kernel, padding=kernel // 2), nn.ReLU()]
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 1), nn.ReLU()]
        if inputs == 3:
            layers += [nn.MaxPool2d(3, 2, 1), nn.Dropout(0.5)]
        elif inputs == 96:
            layers += [nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Conv2d(192, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_equals_the_layers_written_out():
    torch.manual_seed(0)
    theirs, ours = by_hand(), NetworkInNetwork()
    copy_in_order(theirs, ours)
    image = torch.rand(2, 3, 32, 24)
    torch.testing.assert_close(ours.eval()(image), theirs.eval()(image), rtol=1e-5, atol=1e-6)
    for network in (ours.train(), theirs.train()):
        torch.manual_seed(1)  # the same units drop out
        network(image).square().mean().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        scale = float(other.grad.abs().max())
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5 * scale)
