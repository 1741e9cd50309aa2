"""Inverted residual block and the rounding of channels."""

import pytest
import torch

from oculi.nn.convolution import round_channels
from oculi.nn.inverted_residual import InvertedResidual, silu


@pytest.mark.parametrize(("channels", "rounded"), [(3, 8), (32 * 0.35, 16), (24 * 1.4, 32), (96 * 0.35, 32), (90, 88)])
def test_round_channels(channels, rounded):
    assert round_channels(channels) == rounded


def test_rounding_never_loses_more_than_a_tenth():
    for channels in range(8, 600):
        assert round_channels(channels) % 8 == 0
        assert round_channels(channels) >= 0.9 * channels
        assert abs(round_channels(channels) - channels) < 12


def test_the_skip_path():
    """With the last norm at zero the block is the identity where shapes agree, else nothing."""
    x = torch.rand(2, 8, 6, 5)
    for outputs, stride in ((8, 1), (16, 1), (8, 2)):
        block = InvertedResidual(8, outputs, stride=stride, activation="silu", squeeze=2)
        torch.nn.init.zeros_(block.project[1].weight)
        assert torch.equal(
            block(x), x if (outputs, stride) == (8, 1) else torch.zeros(2, outputs, 6 // stride, -(-5 // stride))
        )


def test_layers():
    block = InvertedResidual(8, 8, expansion=6, kernel=5)
    assert block.expand[0].weight.shape == (48, 8, 1, 1)
    assert block.depthwise[0].weight.shape == (48, 1, 5, 5)
    assert block.project[0].weight.shape == (8, 48, 1, 1)
    assert InvertedResidual(8, 8, expansion=1).expand is None


def test_stochastic_depth_drops_whole_samples():
    torch.manual_seed(0)
    block, x = InvertedResidual(8, 8, drop=0.5).train(), torch.rand(64, 8, 4, 4)
    same = (block(x) == x).flatten(1).all(1)
    assert 16 <= int(same.sum()) <= 48
    assert not (block.eval()(x) == x).flatten(1).all(1).any()


def test_inputs_stay_as_they_are():
    """Activations work in place on what the block made itself."""
    x = torch.randn(2, 8, 4, 4)
    kept = x.clone()
    for expansion in (1, 6):
        with torch.no_grad():
            InvertedResidual(8, 8, expansion, activation="silu", squeeze=2)(x)
        assert torch.equal(x, kept)


def test_silu_keeps_what_the_gradient_needs():
    x = torch.randn(5, requires_grad=True)
    assert torch.autograd.gradcheck(silu, x.detach().double().requires_grad_())


@pytest.mark.unchecked
def test_bad_input():
    with pytest.raises(ValueError, match="channels: expected a positive number, got 0"):
        round_channels(0)
    with pytest.raises(ValueError, match="activation: expected one of relu6, silu, got gelu"):
        InvertedResidual(8, 8, activation="gelu")
