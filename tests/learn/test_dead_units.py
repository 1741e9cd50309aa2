"""Dead units: the planted ones are flagged, a healthy network has none; gradients vanish and explode as they should."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oculi.backbones.lenet import LeNet
from oculi.backbones.resnet import ResNet
from oculi.backbones.vit import ViT
from oculi.explain.activations import dead_report
from oculi.learn.dead_units import dead_shares, dead_units


def test_the_planted_bias_is_flagged():
    torch.manual_seed(0)
    images = torch.randn(64, 3, 32, 32)
    healthy = ResNet(5, [1, 1], width=4, image_size=32)
    healthy.train()(images)  # the norms' statistics
    assert dead_report(healthy.eval(), images) == {}
    system = LeNet(hidden=[20, 16]).train()
    for layer in system.hidden:
        nn.init.zeros_(layer.bias)
        nn.init.eye_(layer.weight)
    assert dead_report(system, images) == {}
    with torch.no_grad():
        system.convs[0].bias[3] = -100
        system.hidden[1].bias[[7, 9]] = -100
    assert dead_report(system, images) == {"convs.0": [3], "hidden.1": [7, 9]}
    assert dead_shares(system, images)["convs.0"] == pytest.approx(1 / 6)
    assert system.training
    assert not any(m._forward_hooks for m in system.modules())


def test_functions_modules_norms_and_tokens():
    torch.manual_seed(0)
    images = torch.rand(8, 3, 32, 32)
    resnet = ResNet(5, [1], width=4, image_size=32)
    with torch.no_grad():
        resnet.stem[1].bias[2] = -100
    assert bool(dead_units(resnet, images)["stem.1"][2])
    vit = ViT(5, 32, 16, 8, 1, 2)
    with torch.no_grad():
        vit.blocks[0].mlp[0].bias[5] = -100  # a GELU is silent there too
    assert dead_report(vit, images) == {"blocks.0.mlp.0": [5]}
    leaky = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.01))
    with torch.no_grad():
        leaky[0].bias[1] = -100
    assert dead_report(leaky, images) == {}  # a leaky unit recovers


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least one, got none"):
        dead_units(LeNet(), torch.zeros(0, 3, 32, 32))
    with pytest.raises(ValueError, match="has no activation that can die"):
        dead_units(nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 4, 4))


def ratio(activation, gain):
    """Of the first layer's gradient to the last one's, in a net of twenty layers."""
    torch.manual_seed(0)
    layers = [nn.Linear(32, 32) for _ in range(20)]
    x = torch.randn(16, 32)
    for layer in layers:
        nn.init.normal_(layer.weight, std=gain / 32**0.5)
        nn.init.zeros_(layer.bias)
        x = activation(layer(x))
    x.square().sum().backward()
    return float(layers[0].weight.grad.norm() / layers[-1].weight.grad.norm())


def test_twenty_layers():
    assert ratio(torch.sigmoid, 1.0) < 1e-6  # at most a quarter per layer
    assert 0.05 < ratio(F.relu, 2**0.5) < 20  # Kaiming's gain
