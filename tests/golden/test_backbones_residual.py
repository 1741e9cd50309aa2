"""The residual family by its figures: parameters of the published networks, shapes, identity at the start."""

import pytest
import torch
from torch import nn

from oculi.backbones.non_local_network import NonLocalBlock, NonLocalNetwork
from oculi.backbones.resnet import ResNet
from oculi.backbones.resnext import AggregatedBlock, ResNeXt
from oculi.backbones.se_resnet import SEResNet
from oculi.nn.squeeze_excitation import SqueezeExcitation
from oracles import torchvision

DEEP = [3, 4, 23, 3]


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (lambda: ResNeXt(), 25_028_904),
        (lambda: ResNeXt(depths=DEEP, group_width=8), 88_791_336),
        (lambda: ResNeXt(depths=DEEP, cardinality=64), 83_455_272),
        (lambda: SEResNet(), 28_088_024),
        (lambda: SEResNet(depths=[2, 2, 2, 2], bottleneck=False), 11_778_592),
        (lambda: SEResNet(depths=DEEP), 49_326_872),
        (lambda: SEResNet(reduction=0), 25_557_032),
        (lambda: NonLocalNetwork(non_local=[]), 25_557_032),
        (lambda: NonLocalNetwork(), 25_557_032 + 2_101_760),
    ],
    ids=[
        "resnext50",
        "resnext101",
        "64x4d",
        "seresnet50",
        "seresnet18",
        "seresnet101",
        "plain",
        "no block",
        "one block",
    ],
)
def test_parameters(build, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in build().parameters()) == parameters


def test_a_gate_of_256_channels_has_16_hidden_units():
    """Two matrices and two biases: 2 c^2 / r + c / r + c."""
    assert sum(p.numel() for p in SqueezeExcitation(256, 16).parameters()) == 2 * 256**2 // 16 + 16 + 256


def test_a_non_local_block_of_1024_channels():
    """Four matrices between 1024 and 512, their biases, and batch norm."""
    with torch.device("meta"):
        block = NonLocalBlock(1024, 512)
    assert sum(p.numel() for p in block.parameters()) == 4 * 1024 * 512 + 3 * 512 + 1024 + 2 * 1024 == 2_101_760


NETWORKS = [
    (ResNeXt, {"cardinality": 4, "group_width": 2}, 4),
    (SEResNet, {"bottleneck": True}, 4),
    (SEResNet, {"bottleneck": False, "reduction": 4}, 1),
    (NonLocalNetwork, {"bottleneck": False, "non_local": [[0, 0], [1, 1]]}, 1),
]


@pytest.mark.parametrize(("network", "options", "wider"), NETWORKS)
@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_pyramid(network, options, wider, stem):
    system = network(0, depths=[1, 2], width=8, stem=stem, in_channels=1, image_size=32, **options)
    image = torch.rand(2, 1, 33, 48)  # any size
    maps = system.features(image)
    assert system.strides == ([4, 8] if stem == "imagenet" else [1, 2])
    assert system.channels == [8 * wider, 16 * wider]
    for x, stride, channels in zip(maps, system.strides, system.channels, strict=True):
        assert x.shape == (2, channels, -(-33 // stride), 48 // stride)
    assert system(image).shape == (2, 16 * wider)


def test_zero_gamma_marks_the_same_layers_as_torchvision():
    def zeros(network):
        return [not bool(m.weight.any()) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]

    models = torchvision().models.resnet
    depths, theirs = [1, 2, 1, 1], zeros(models.ResNet(models.Bottleneck, [1, 2, 1, 1], zero_init_residual=True))
    assert sum(theirs) == sum(depths)
    assert zeros(ResNet(1000, depths, bottleneck=True, zero_init=True)) == theirs
    assert zeros(SEResNet(1000, depths, zero_init=True)) == theirs
    assert zeros(ResNeXt(1000, depths, zero_init=True)) == theirs
    assert not any(zeros(ResNeXt(1000, depths)))


def test_zero_gamma_starts_a_block_as_the_identity():
    x = torch.rand(2, 32, 5, 5)
    assert torch.equal(AggregatedBlock(32, 16, 32, cardinality=4, zero_init=True)(x), x)


def test_stochastic_depth_rises_with_depth_and_is_silent_in_evaluation():
    torch.manual_seed(0)
    system = ResNeXt(2, [1, 1], 4, 2, 8, "small", 1, 16, stochastic_depth=0.5)
    assert [stage[0].drop.rate for stage in system.stages] == [0.25, 0.5]
    image = torch.rand(8, 1, 16, 16)
    system(image)
    assert torch.equal(system.eval()(image), system(image))
    skipped = AggregatedBlock(32, 16, 32, cardinality=4, drop_rate=1.0)
    x = torch.rand(2, 32, 5, 5)
    assert torch.equal(skipped(x), x)


def test_bad_input():
    with pytest.raises(ValueError, match="cardinality, group_width: expected at least 1 branch"):
        ResNeXt(cardinality=0)
    with pytest.raises(ValueError, match=r"reduction: expected 0 \(none\) or more, got -1"):
        SEResNet(reduction=-1)
    with pytest.raises(ValueError, match=r"non_local: expected \[stage, block\] within depths \[1, 1\], got \[1, 1\]"):
        NonLocalNetwork(depths=[1, 1], width=8, non_local=[[1, 1]])
