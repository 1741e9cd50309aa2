"""Plain convolutional networks: parameters as published, sides as worked by hand, any size, channels, and bad input."""

import pytest
import torch

from oculi.backbones.alexnet import AlexNet
from oculi.backbones.all_convolutional_network import AllConvolutionalNetwork
from oculi.backbones.network_in_network import NetworkInNetwork, downsample
from oculi.backbones.squeezenet import SqueezeNet
from oculi.backbones.vgg import VGG

IMAGENET_NIN = {
    "widths": [[96, 96, 96], [256, 256, 256], [384, 384, 384], [1024, 1024]],
    "kernels": [11, 5, 3, 3],
    "pooling": ["max"] * 3,
    "stem_stride": 4,
    "image_size": 224,
}


def count(kind, **arguments):
    with torch.device("meta"):
        return sum(p.numel() for p in kind(**arguments).parameters())


@pytest.mark.parametrize(
    ("kind", "arguments", "parameters"),
    [
        (AlexNet, {}, 61_100_840),
        (VGG, {"depths": [1, 1, 2, 2, 2]}, 132_863_336),
        (VGG, {"depths": [2, 2, 2, 2, 2]}, 133_047_848),
        (VGG, {}, 138_357_544),
        (VGG, {"norm": True}, 138_365_992),
        (VGG, {"depths": [2, 2, 4, 4, 4]}, 143_667_240),
        (SqueezeNet, {}, 1_248_424),
        (SqueezeNet, {"version": "1_1"}, 1_235_496),
        (SqueezeNet, {"bypass": True}, 1_248_424),
        (NetworkInNetwork, {}, 966_986),
        (AllConvolutionalNetwork, {}, 1_369_738),
        (AllConvolutionalNetwork, {"downsampling": "conv_pool"}, 1_369_738),
    ],
)
def test_parameters_as_published(kind, arguments, parameters):
    assert count(kind, **arguments) == parameters


def test_three_3x3_convolutions_have_fewer_weights_than_one_7x7():
    with torch.device("meta"):
        stage = VGG(0, [3], 64, in_channels=3, image_size=64).stages[0]
    assert stage[1][0].weight.numel() * 3 == 27 * 64**2 < 49 * 64**2


def test_the_general_pattern_is_what_the_arguments_say():
    """[[conv, ReLU] * N, pool?] * M, [linear, ReLU] * K, linear."""
    network = VGG(5, [2, 1, 3], 4, pooled=[True, False, True], hidden=[6, 7, 8], pool=2, image_size=16)
    assert [len(stage) for stage in network.stages] == [2, 1, 3]
    assert [layer.out_features for layer in [*network.hidden, network.head]] == [6, 7, 8, 5]
    assert [tuple(m.shape[1:]) for m in network.features(torch.rand(1, 3, 16, 16))] == [
        (4, 8, 8),
        (8, 8, 8),
        (16, 4, 4),
    ]
    assert network.strides == [2, 2, 4]
    assert VGG(5, [1], 4, hidden=[], pool=2, image_size=16)(torch.rand(1, 3, 16, 16)).shape == (1, 5)


def test_average_pooling_keeps_depth_and_border_windows_count_what_is_there():
    x = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
    assert downsample(x, "average")[0, 1].tolist() == [[2.5, 4.0], [8.5, 10.0]]
    assert downsample(x, "max")[0, 1].tolist() == [[5.0, 7.0], [13.0, 15.0]]


SMALL = [
    (AlexNet, {"channels": [4] * 5, "hidden": [8]}),
    (AlexNet, {"channels": [4] * 5, "hidden": [8], "stem": "small", "pool": 3}),
    (VGG, {"depths": [1, 1, 2, 2, 2], "width": 4, "norm": True, "hidden": [8]}),
    (SqueezeNet, {"squeeze": [2, 2, 4, 4, 6, 6, 8, 8], "bypass": True}),
    (SqueezeNet, {"squeeze": [2, 2, 4, 4, 6, 6, 8, 8], "version": "1_1"}),
    (NetworkInNetwork, {"widths": [[8, 6], [8, 4], [6, 6]], "norm": True}),
    (NetworkInNetwork, {**IMAGENET_NIN, "widths": [[8, 6], [8, 4], [6, 6], [5]]}),
    *[(AllConvolutionalNetwork, {"widths": [4, 6, 8], "downsampling": kind}) for kind in ("strided", "pool", "merged")],
]


@pytest.mark.parametrize(("kind", "arguments"), SMALL)
def test_any_size_any_channels_and_pooled_features(kind, arguments):
    network = kind(num_classes=7, in_channels=1, **arguments).eval()
    image = torch.rand(2, 1, 128, 96)
    maps = network.features(image)
    assert network(image).shape == (2, 7)
    assert [m.shape[1] for m in maps] == network.channels
    assert len(maps) == len(network.strides)
    for one, stride in zip(maps, network.strides, strict=True):  # without padding a pixel or two are lost
        assert abs(one.shape[2] - 128 / stride) <= 2
        assert abs(one.shape[3] - 96 / stride) <= 2
    features = kind(num_classes=0, in_channels=1, **arguments).eval()
    assert features(image).shape == (2, network.channels[-1])


def test_a_class_score_is_the_mean_of_its_map():
    image = torch.rand(2, 3, 40, 32)
    for network in (NetworkInNetwork(), AllConvolutionalNetwork(), SqueezeNet(9)):
        maps = network.eval().class_maps(image)
        torch.testing.assert_close(network(image), maps.mean((2, 3)))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("kind", "arguments", "match"),
    [
        (AlexNet, {"channels": [8]}, "channels: expected five"),
        (AlexNet, {"stem": "large"}, "stem: expected imagenet or small, got 'large'"),
        (AlexNet, {"image_size": 32}, "image_size: expected at least 63"),
        (VGG, {"image_size": 16}, "image_size: 16 pixels are too few"),
        (VGG, {"pooled": [True]}, "pooled: expected 5 values"),
        (SqueezeNet, {"version": "2_0"}, "version: expected 1_0 or 1_1, got '2_0'"),
        (SqueezeNet, {"squeeze": [8]}, "squeeze: expected eight"),
        (NetworkInNetwork, {"kernels": [5]}, "kernels: expected 3"),
        (NetworkInNetwork, {"pooling": ["max", "min"]}, "pooling: expected 2 times"),
        (AllConvolutionalNetwork, {"downsampling": "mean"}, "downsampling: expected strided"),
    ],
)
def test_bad_arguments_are_named(kind, arguments, match):
    with pytest.raises(ValueError, match=match):
        kind(**arguments)
