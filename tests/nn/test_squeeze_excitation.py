"""Squeeze-and-excitation against torchvision's and timm's, and what gates of 1 and 0 do."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oculi.nn.squeeze_excitation import SqueezeExcitation
from oracles import timm, torchvision


@pytest.mark.parametrize(
    ("activation", "gate", "layers"),
    [
        (F.relu, torch.sigmoid, (nn.ReLU, nn.Sigmoid)),
        (F.silu, torch.sigmoid, (nn.SiLU, nn.Sigmoid)),
        (F.relu, F.hardsigmoid, (nn.ReLU, nn.Hardsigmoid)),
    ],
)
def test_equals_torchvision(activation, gate, layers):
    torch.manual_seed(0)
    theirs = torchvision().ops.SqueezeExcitation(12, 3, *layers)
    ours = SqueezeExcitation(12, 3, activation, gate)
    ours.reduce.load_state_dict(theirs.fc1.state_dict())
    ours.expand.load_state_dict(theirs.fc2.state_dict())
    x = torch.randn(2, 12, 5, 7)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.testing.assert_close(ours(mine), theirs(other), rtol=1e-5, atol=1e-6)
    ours(mine).square().sum().backward()
    theirs(other).square().sum().backward()
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.reduce.weight.grad, theirs.fc1.weight.grad, rtol=1e-5, atol=1e-5)


def test_equals_timm():
    torch.manual_seed(0)
    timm()
    from timm.layers import SqueezeExcite

    theirs, ours = SqueezeExcite(32, rd_channels=4), SqueezeExcitation(32, 4)
    ours.reduce.load_state_dict(theirs.fc1.state_dict())
    ours.expand.load_state_dict(theirs.fc2.state_dict())
    x = torch.randn(2, 32, 6, 6)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)


def test_gates_of_one_are_the_identity_and_of_zero_silence():
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(SqueezeExcitation(8, 2, gate=torch.ones_like)(x), x)
    assert not SqueezeExcitation(8, 2, gate=torch.zeros_like)(x).any()


def test_the_gates_do_not_care_where_things_are():
    torch.manual_seed(0)
    block, x = SqueezeExcitation(8, 2), torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(block.weights(x), block.weights(x.flip(2, 3)), rtol=1e-5, atol=1e-6)
    assert block.weights(x).shape == (2, 8, 1, 1)


def test_width_must_be_positive():
    with pytest.raises(ValueError, match="width: expected at least 1 hidden unit, got 0"):
        SqueezeExcitation(8, 0)
