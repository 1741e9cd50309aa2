"""Figures of GoogLeNet, Xception and DenseNet: parameters and multiply-adds of the papers and references, shapes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from oculi.backbones.densenet import DenseBlock, DenseNet
from oculi.backbones.googlenet import STAGES, GoogLeNet, InceptionModule
from oculi.backbones.xception import Xception
from oculi.nn.auxiliary_classifier import auxiliary_losses
from oculi.nn.classification import classification_loss
from oculi.nn.separable import SeparableConv

SMALL = {"num_classes": 5, "in_channels": 1}
VGG_16 = 138_357_544


def parameters(network) -> int:
    return sum(p.numel() for p in network.parameters())


def without_memory(kind, **arguments):
    with torch.device("meta"):
        return kind(**arguments)


def multiply_adds(network, size: int) -> int:
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        (GoogLeNet, {"auxiliary": 0}, 6_624_904),
        (GoogLeNet, {}, 13_004_888),
        (Xception, {}, 22_855_952),
        (DenseNet, {}, 7_978_856),
        (DenseNet, {"depths": [6, 12, 32, 32]}, 14_149_480),
        (DenseNet, {"depths": [6, 12, 48, 32]}, 20_013_928),
        (DenseNet, {"depths": [6, 12, 36, 24], "growth": 48, "stem_channels": 96}, 28_681_000),
    ],
)
def test_parameters_of_the_references(kind, arguments, expected):
    assert parameters(without_memory(kind, **arguments)) == expected


def test_googlenet_is_a_twentieth_of_vgg():
    assert round(100 * 6_624_904 / VGG_16, 1) == 4.8


def test_googlenet_of_the_paper():
    """With 5x5 convolutions, biases for batch norms: the parameters of the network as its authors published it."""
    network = without_memory(GoogLeNet, large_kernel=5, auxiliary=0)
    assert sum(p.numel() if p.ndim > 1 else p.numel() / 2 for p in network.parameters()) + 1000 / 2 == 6_998_552


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"depths": [16, 16, 16], "growth": 12, "stem_channels": 24}, 769_162),  # the paper: 0.8M, k = 12, BC
        ({"depths": [12, 12, 12], "growth": 12, "stem_channels": 16, "bottleneck": 0, "compression": 1}, 1_019_722),
    ],
)
def test_densenets_of_the_paper_for_small_pictures(arguments, expected):
    assert parameters(without_memory(DenseNet, num_classes=10, stem="small", **arguments)) == expected


def test_a_dense_layer_takes_all_earlier_maps():
    block = DenseNet(depths=[6, 1]).blocks[0]
    assert [layer[0].norm.num_features for layer in block.layers] == [64, 96, 128, 160, 192, 224]
    assert [layer[1].conv.out_channels for layer in block.layers] == [32] * 6
    x = torch.randn(2, 7, 5, 3)
    out = DenseBlock(7, 3, 4, bottleneck=0)(x)
    assert out.shape == (2, 7 + 3 * 4, 5, 3)
    assert torch.equal(out[:, :7], x)  # nothing is forgotten


def test_a_transition_may_average_first():
    transition = DenseNet(depths=[1, 1]).eval().transitions[0]
    x = torch.randn(2, 96, 7, 6)
    as_written = torch.nn.functional.avg_pool2d(transition.conv(transition.norm(x).relu()), 2)
    torch.testing.assert_close(transition(x), as_written, rtol=1e-5, atol=1e-6)


def test_an_inception_module_has_the_sum_of_its_branches():
    widths = STAGES[0][0]
    module = InceptionModule(192, widths)
    assert module.outputs == 64 + 128 + 32 + 32 == module(torch.randn(2, 192, 6, 5)).shape[1]
    network = without_memory(GoogLeNet)
    outputs = [module.outputs for stage in network.stages for module in stage]
    assert outputs == [256, 480, 512, 512, 512, 528, 832, 832, 1024]  # table 1 of the paper


def test_auxiliary_losses_by_hand():
    label = torch.tensor([0, 2])
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]])
    main, half, nothing = (classification_loss(logits * k, label)["cross_entropy"] for k in (1, 0.5, 0))
    total = main + sum(auxiliary_losses([logits * 0.5, logits * 0], label).values())
    torch.testing.assert_close(total, main + 0.3 * (half + nothing))
    assert float(nothing) == pytest.approx(torch.tensor(3.0).log().item())


def test_a_separable_convolution_by_hand():
    """3x3, 64 -> 128: 73,728 weights become 576 + 8,192."""
    separable = SeparableConv(64, 128)
    assert [p.numel() for p in separable.parameters()] == [576, 8_192]
    assert separable.dense_kernel().numel() == 73_728


def test_multiply_adds_of_the_references():
    assert multiply_adds(without_memory(GoogLeNet), 224) / 1e9 == pytest.approx(1.498, abs=1e-3)
    assert multiply_adds(without_memory(Xception), 299) / 1e9 == pytest.approx(8.4, abs=0.05)
    assert multiply_adds(without_memory(DenseNet), 224) / 1e9 < 2.834  # torchvision's, which averages last
    separable, dense = (multiply_adds(without_memory(Xception, dense=flag), 96) for flag in (False, True))
    assert dense > 7 * separable


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (GoogLeNet, {"width": 0.0625}),
        (GoogLeNet, {"width": 0.0625, "stem": "medium", "large_kernel": 5}),
        (GoogLeNet, {"width": 0.0625, "stem": "small"}),
        (Xception, {"width": 0.0625, "middle": 1, "stem": "small"}),
        (Xception, {"width": 0.0625, "middle": 1, "dense": True, "stem": "small"}),
        (DenseNet, {"depths": [2, 1, 1], "growth": 4, "stem_channels": 6}),
        (DenseNet, {"depths": [2, 1, 1], "growth": 4, "stem_channels": 6, "stem": "medium"}),
        (DenseNet, {"depths": [2, 1, 1], "growth": 4, "stem_channels": 6, "stem": "small", "bottleneck": 0}),
    ],
)
def test_the_pyramid_is_as_declared(kind, arguments):
    network = kind(**SMALL, **arguments).eval()
    with torch.no_grad():
        maps = network.features(torch.rand(2, 1, 64, 96))
        assert [x.shape[1:] for x in maps] == [
            (c, 64 // s, 96 // s) for c, s in zip(network.channels, network.strides, strict=True)
        ]
        assert network(torch.rand(1, 1, 45, 37)).shape == (1, 5)  # any size
        bare = kind(**{**SMALL, **arguments, "num_classes": 0}).eval()
        assert bare(torch.rand(2, 1, 33, 47)).shape == (2, network.channels[-1])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="large_kernel: expected an odd size, got 4"):
        GoogLeNet(width=0.1, large_kernel=4)
    with pytest.raises(ValueError, match="compression: expected a share above 0 and up to 1, got 0"):
        DenseNet(depths=[1, 1], compression=0)
