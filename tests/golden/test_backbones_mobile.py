"""Worked numbers of MobileNet, MobileNetV2 and EfficientNet."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from oculi.backbones.efficientnet import EfficientNet, compound_scaling, scaling_bases
from oculi.backbones.mobilenet_v1 import MobileNetV1, SeparableBlock
from oculi.backbones.mobilenet_v2 import MobileNetV2
from oculi.nn.convolution import conv_norm


@pytest.mark.parametrize(
    ("system", "arguments", "parameters"),
    [
        (MobileNetV1, {}, 4_231_976),
        (MobileNetV2, {}, 3_504_872),
        (EfficientNet, {}, 5_288_548),
        (EfficientNet, {"variant": "b7"}, 66_347_960),
    ],
)
def test_parameters(system, arguments, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in system(**arguments).parameters()) == parameters


@pytest.mark.parametrize(
    ("system", "arguments", "millions"),
    [
        (MobileNetV1, {}, 569),  # Howard 2017, table 4
        (MobileNetV1, {"separable": False}, 4866),
        (MobileNetV1, {"width": 0.5}, 149),  # table 6
        (MobileNetV1, {"image_size": 128}, 186),  # table 7
        (MobileNetV2, {}, 300),  # Sandler 2018, table 4
        (MobileNetV2, {"width": 1.4}, 585),
        (EfficientNet, {}, 390),  # Tan & Le 2019, table 2
        (EfficientNet, {"variant": "b1"}, 700),
    ],
)
def test_multiply_adds_as_published(system, arguments, millions):
    with torch.device("meta"), FlopCounterMode(display=False) as counted:
        network = system(**arguments)
        network(torch.rand(2, 3, network.contract.height, network.contract.width))
    assert counted.get_total_flops() / 2 / 2 == pytest.approx(millions * 1e6, rel=0.03)


def test_separable_convolution_64_to_128():
    """3x3, 64 -> 128: 73,728 weights dense, 576 + 8,192 separable."""

    def weights(separable: bool) -> list[int]:
        return [conv[0].weight.numel() for conv in SeparableBlock(64, 128, 1, separable).convs]

    assert weights(False) == [73_728]
    assert weights(True) == [576, 8_192]
    assert sum(weights(True)) / sum(weights(False)) == pytest.approx(1 / 128 + 1 / 9)


def test_depthwise_convolution_keeps_the_depth_and_never_mixes_channels():
    depthwise = conv_norm(32, 32, 3, groups=32)[0]
    x = torch.rand(1, 32, 5, 5)
    out = depthwise(x)
    assert out.shape == (1, 32, 5, 5)
    assert depthwise.weight.numel() == 32 * 9
    x[:, 7] += 1
    changed = (depthwise(x) - out).abs().amax((0, 2, 3)) > 0
    assert changed.nonzero().flatten().tolist() == [7]


def test_compound_scaling():
    assert compound_scaling(0) == (1, 1, 1)
    assert compound_scaling(1) == (1.2, 1.1, 1.15)
    depth, width, resolution = compound_scaling(1)
    assert depth * width**2 * resolution**2 == pytest.approx(1.92, abs=0.005)
    assert (1.2, 1.1, 1.15) in scaling_bases()  # a point of the grid that the paper's search went over
    assert all(abs(a * b**2 * c**2 - 2) <= 0.1 for a, b, c in scaling_bases())


def test_published_resolutions():
    with torch.device("meta"):
        sizes = [EfficientNet(variant=variant).contract.height for variant in ("b0", "b1", "b7")]
    assert sizes == [224, 240, 600]


@pytest.mark.parametrize("system", [MobileNetV1, MobileNetV2, EfficientNet])
def test_pyramid(system):
    """Maps at the declared strides with the declared channels, for sizes that no stride divides and any channels."""
    with torch.device("meta"):
        backbone = system(0, width=0.25, in_channels=1)
        maps = backbone.features(torch.rand(2, 1, 50, 67))
        assert backbone(torch.rand(2, 1, 50, 67)).shape == (2, backbone.channels[-1])
    assert backbone.strides == [2, 4, 8, 16, 32]
    assert [m.shape[1] for m in maps] == backbone.channels
    assert [m.shape[-2:] for m in maps] == [(-(-50 // s), -(-67 // s)) for s in backbone.strides]


@pytest.mark.parametrize("system", [MobileNetV1, MobileNetV2, EfficientNet])
def test_small_pictures(system):
    with torch.device("meta"):
        backbone = system(0, width=0.25, stem_stride=1)
        maps = backbone.features(torch.rand(2, 3, 64, 64))
    assert backbone.strides == [1, 2, 4, 8, 16]
    assert [m.shape[-1] for m in maps] == [64, 32, 16, 8, 4]


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("system", "arguments", "message"),
    [
        (MobileNetV1, {"width": 0}, "width: expected a positive number, got 0"),
        (MobileNetV2, {"width": -1}, "width: expected a positive number, got -1"),
        (MobileNetV2, {"depths": [1] * 8}, "depths: expected .* of up to 7 stages, got"),
        (EfficientNet, {"variant": "b8"}, "variant: expected one of b0, .*, got b8"),
        (EfficientNet, {"width": -1}, "width, depth: expected positive numbers, got -1 and 1.0"),
    ],
)
def test_bad_arguments(system, arguments, message):
    with pytest.raises(ValueError, match=message):
        system(**arguments)
