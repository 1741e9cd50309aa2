"""SqueezeNet against torchvision: equal outputs and gradients at equal weights, and the numbers of parameters."""

import pytest
import torch

from agreement import copy_in_order
from oculi.backbones.squeezenet import SqueezeNet
from oracles import torchvision


@pytest.mark.parametrize(("version", "parameters"), [("1_0", 1_248_424), ("1_1", 1_235_496)])
def test_equals_torchvision(version, parameters):
    torch.manual_seed(0)
    theirs = getattr(torchvision().models, f"squeezenet{version}")()
    ours = SqueezeNet(version=version)
    copy_in_order(theirs, ours)
    assert sum(p.numel() for p in ours.parameters()) == parameters
    image = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(ours.eval()(image), theirs.eval()(image), rtol=1e-5, atol=1e-6)
    outputs = []
    for network in (ours.train(), theirs.train()):
        torch.manual_seed(1)  # the same units drop out
        outputs.append(network(image))
        outputs[-1].square().mean().backward()
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        scale = float(other.grad.abs().max())
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5 * scale)
