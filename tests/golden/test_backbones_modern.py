"""Published sizes of ConvNeXt and Swin, counted without their weights; torchvision's and timm's numbers."""

import pytest
import torch

from oculi.backbones.convnext import ConvNeXt
from oculi.backbones.swin import Swin

PUBLISHED = {
    "convnext tiny": (ConvNeXt, {}, 28_589_128),
    "convnext small": (ConvNeXt, {"depths": [3, 3, 27, 3]}, 50_223_688),
    "convnext base": (ConvNeXt, {"depths": [3, 3, 27, 3], "widths": [128, 256, 512, 1024]}, 88_591_464),
    "convnext large": (ConvNeXt, {"depths": [3, 3, 27, 3], "widths": [192, 384, 768, 1536]}, 197_767_336),
    "swin tiny": (Swin, {}, 28_288_354),
    "swin small": (Swin, {"depths": [2, 2, 18, 2]}, 49_606_258),
    "swin base": (Swin, {"width": 128, "depths": [2, 2, 18, 2], "heads": [4, 8, 16, 32]}, 87_768_224),
    "swin large": (Swin, {"width": 192, "depths": [2, 2, 18, 2], "heads": [6, 12, 24, 48]}, 196_532_476),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_number_of_parameters(name):
    system, arguments, parameters = PUBLISHED[name]
    with torch.device("meta"):
        assert sum(p.numel() for p in system(**arguments).parameters()) == parameters


@pytest.mark.parametrize("system", [ConvNeXt, Swin], ids=lambda s: s.__name__)
def test_pyramid_of_the_defaults(system):
    with torch.device("meta"):
        network = system()
        maps = network.features(torch.empty(1, 3, 224, 224))
    assert [tuple(x.shape) for x in maps] == [(1, 96, 56, 56), (1, 192, 28, 28), (1, 384, 14, 14), (1, 768, 7, 7)]
    assert network.strides == [4, 8, 16, 32]
