"""AlexNet against torchvision: equal outputs and gradients at equal weights, and the number of parameters."""

import pytest
import torch
from torch import nn

from agreement import copy_in_order
from oculi.backbones.alexnet import AlexNet
from oracles import torchvision


@pytest.fixture(scope="module")
def pair():
    """All convolutions of full width; fully connected layers of 32, since 58 million weights would cost seconds."""
    torch.manual_seed(0)
    with torch.device("meta"):
        theirs = torchvision().models.alexnet()
    for index, layer in enumerate(theirs.features):
        if isinstance(layer, nn.Conv2d):
            theirs.features[index] = nn.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding
            )
    for index, (inputs, outputs) in {1: (256 * 36, 32), 4: (32, 32), 6: (32, 1000)}.items():
        theirs.classifier[index] = nn.Linear(inputs, outputs)
    ours = AlexNet(hidden=[32, 32])
    copy_in_order(theirs, ours)
    return theirs, ours


@pytest.mark.parametrize("size", [(64, 96), (224, 224)])
def test_equals_torchvision(pair, size):
    theirs, ours = pair
    image = torch.rand(2, 3, *size)
    torch.testing.assert_close(ours.eval()(image), theirs.eval()(image), rtol=1e-5, atol=1e-6)
    for network in (ours.train(), theirs.train()):
        torch.manual_seed(1)  # the same units drop out
        network.zero_grad()
        network(image).square().mean().backward()
    for mine, other in ((ours.convs[0][0], theirs.features[0]), (ours.hidden[0], theirs.classifier[1])):
        scale = float(other.weight.grad.abs().max())
        torch.testing.assert_close(mine.weight.grad, other.weight.grad, rtol=1e-4, atol=1e-5 * scale)
    torch.testing.assert_close(ours.head.bias.grad, theirs.classifier[6].bias.grad, rtol=1e-4, atol=1e-6)


def test_layers_of_the_full_size():
    with torch.device("meta"):
        theirs, ours = torchvision().models.alexnet(), AlexNet()
    shapes = [v.shape for key, v in ours.state_dict().items() if not key.startswith("pixel_")]
    assert shapes == [v.shape for v in theirs.state_dict().values()]
    assert sum(p.numel() for p in ours.parameters()) == 61_100_840
