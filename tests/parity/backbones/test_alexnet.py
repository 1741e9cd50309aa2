"""AlexNet against torchvision: equal outputs and gradients at equal weights, and the number of parameters."""

import pytest
import torch

from oculi.backbones.alexnet import AlexNet
from oracles import torchvision


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    theirs = torchvision().models.alexnet()
    ours = AlexNet()
    target = [key for key in ours.state_dict() if not key.startswith("pixel_")]
    ours.load_state_dict(dict(zip(target, theirs.state_dict().values(), strict=True)), strict=False)
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


def test_number_of_parameters(pair):
    assert sum(p.numel() for p in pair[1].parameters()) == 61_100_840
