"""ASPP against torchvision's and segmentation_models_pytorch's; atrous networks against strided ones."""

import pytest
import torch
from torch import nn

from agreement import close, copy_in_order
from oculi.backbones.resnet import ResNet
from oculi.nn.aspp import ASPP
from oculi.nn.atrous import make_atrous
from oracles import oracle, timm, torchvision


def compared(theirs, ours, image):
    for mode in (True, False):
        theirs.train(mode), ours.train(mode)
        close(ours(image), theirs(image))
        mine, other = (torch.autograd.grad(m(image).square().mean(), m.parameters()) for m in (ours, theirs))
        close(mine[0], other[0], 1e-4)


def test_equals_torchvision():
    torch.manual_seed(0)
    theirs = torchvision().models.segmentation.deeplabv3.ASPP(12, [2, 4, 9], 8)
    theirs.project[3].p = 0.0
    ours = ASPP(12, 8, [2, 4, 9], dropout=0.0)
    copy_in_order(theirs, ours)
    compared(theirs, ours, torch.randn(3, 12, 11, 7))


@pytest.mark.parametrize("separable", [False, True])
def test_equals_segmentation_models(separable):
    timm()
    oracle("segmentation_models_pytorch")
    from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPP as Theirs

    torch.manual_seed(1)
    theirs, ours = Theirs(12, 8, [2, 4, 9], separable, 0.0), ASPP(12, 8, [2, 4, 9], separable, 0.0)
    copy_in_order(theirs, ours)
    compared(theirs, ours, torch.randn(3, 12, 11, 7))


def test_a_rate_as_large_as_the_map_is_a_1x1_convolution():
    torch.manual_seed(0)
    layer, x = ASPP(3, 4, [6]).branches[1][0], torch.randn(1, 3, 6, 6)
    torch.testing.assert_close(layer(x), nn.functional.conv2d(x, layer.weight[:, :, 1:2, 1:2]))


@pytest.mark.parametrize("bottleneck", [True, False])
@pytest.mark.parametrize("output_stride", [4, 8, 16])
def test_an_atrous_network_gives_the_strided_ones_map_and_what_is_between(bottleneck, output_stride):
    torch.manual_seed(0)
    strided, atrous = (ResNet(0, [1, 2, 2, 2], bottleneck, 8).eval() for _ in range(2))
    atrous.load_state_dict(strided.state_dict())
    strides = make_atrous(atrous.stages, atrous.strides, output_stride)
    assert strides == [min(s, output_stride) for s in (4, 8, 16, 32)]
    image = torch.rand(1, 3, 96, 64)
    for coarse, fine, stride in zip(strided.features(image), atrous.features(image), strides, strict=True):
        step = fine.shape[-1] // coarse.shape[-1]
        assert fine.shape[-2:] == (96 // stride, 64 // stride)
        torch.testing.assert_close(fine[..., ::step, ::step], coarse, rtol=1e-4, atol=1e-5)


def test_nothing_changes_at_the_networks_own_stride():
    network = ResNet(0, [1, 1], False, 8)
    kept = [(m.stride, m.padding, m.dilation) for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert make_atrous(network.stages, network.strides, 8) == [4, 8]
    assert [(m.stride, m.padding, m.dilation) for m in network.modules() if isinstance(m, nn.Conv2d)] == kept


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="rates: expected at least one, each of 1 or more, got"):
        ASPP(4, 4, [])
    network = ResNet(0, [1, 1], False, 8)
    with pytest.raises(ValueError, match="output_stride: expected one of 4, 8, got 16"):
        make_atrous(network.stages, network.strides, 16)
