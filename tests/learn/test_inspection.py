"""Inspection: sizes, parameters, multiply-adds, memory per layer and for the network, against torch and torchvision."""

import functools
import json
import math

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from oculi.backbones.efficientnet import EfficientNet
from oculi.backbones.lenet import LeNet
from oculi.backbones.mobilenet_v2 import MobileNetV2
from oculi.backbones.resnet import ResNet
from oculi.backbones.swin import Swin
from oculi.backbones.vit import ViT
from oculi.detect.faster_rcnn import FasterRCNN
from oculi.learn.inspection import inspect
from oculi.learn.multiply_adds import flops_counter, operations_per_second
from oracles import torchvision


def test_lenet_row_by_row():
    found = inspect(LeNet(), 32)
    layers = {layer.name: layer for layer in found.layers}
    assert found.parameters == found.trainable == 62_006
    assert [layers[n].output for n in ("convs.0", "max_pool2d", "convs.1", "max_pool2d (2)", "head")] == [
        (6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (10,)
    ]  # fmt: skip
    assert [layers[n].parameters for n in ("convs.0", "convs.1", "hidden.0", "hidden.1", "head")] == [
        456, 2_416, 48_120, 10_164, 850
    ]  # fmt: skip
    assert layers["convs.0"].multiply_adds == 75 * 6 * 28 * 28
    assert layers["convs.0"].memory == 4 * 6 * 28 * 28
    assert [layers[n].receptive_field for n in ("convs.0", "max_pool2d", "convs.1", "max_pool2d (2)")] == [
        (5, 5), (6, 6), (14, 14), (16, 16)
    ]  # fmt: skip
    assert layers["max_pool2d (2)"].stride == (4, 4)
    assert layers["hidden.0"].receptive_field == (math.inf, math.inf)
    assert layers["hidden.0"].stride is None
    assert found.receptive_field == (math.inf, math.inf)


PUBLISHED = {
    "ResNet18": lambda: ResNet(),
    "ResNet50": lambda: ResNet(1000, [3, 4, 6, 3], True),
    "MobileNet_V2": lambda: MobileNetV2(),
    "EfficientNet_B0": lambda: EfficientNet(),
    "Swin_T": lambda: Swin(),
}


@functools.cache
def inspected(name):
    return inspect(PUBLISHED[name](), 224)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures(name):
    """Parameters and billions of multiply-adds as torchvision publishes them with its weights."""
    found = inspected(name)
    published = getattr(torchvision().models, f"{name}_Weights").IMAGENET1K_V1.meta
    assert found.parameters == published["num_params"]
    assert found.multiply_adds / 1e9 == pytest.approx(published["_ops"], abs=1e-3)
    assert found.size == (224, 224)
    assert sum(layer.parameters for layer in found.layers) == found.parameters


def test_resnet50_by_the_paper():
    found = inspected("ResNet50")
    assert found.multiply_adds / 1e9 == pytest.approx(4.09, abs=0.005)
    maps = [layer for layer in found.layers if layer.kind == "Conv2d"]
    assert maps[0].receptive_field == (7, 7)
    assert max(layer.receptive_field for layer in maps) == (427, 427)
    assert {layer.stride for layer in maps} == {(2, 2), (4, 4), (8, 8), (16, 16), (32, 32)}


def test_windows_stay_windows_in_swin():
    first = next(layer for layer in inspected("Swin_T").layers if "dot_product" in layer.kind)
    assert first.receptive_field == (28, 28)
    assert first.stride == (4, 4)


NETWORKS = {
    "dilated": nn.Conv2d(3, 8, 3, padding=2, dilation=2),
    "grouped": nn.Conv2d(3, 9, 3, 2, groups=3),
    "transposed": nn.ConvTranspose2d(3, 8, 4, 2, 1),
    "transposed and grouped": nn.ConvTranspose2d(3, 6, 3, 3, groups=3),
    "depthwise": nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 5, groups=6), nn.Conv2d(6, 4, 1)),
    "linear": nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 20), nn.Linear(20, 5, bias=False)),
    "vit": ViT(10, 32, 8, 24, 2, 4),
    "resnet": ResNet(10, [1, 1], width=8),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_multiply_adds_are_half_of_torchs_operations(name):
    network, size = NETWORKS[name].eval(), (32, 32) if name == "vit" else (24, 40)
    x = torch.rand(1, 3, *size)
    # torch's counter does not know the fused attention of CPUs
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(x)
    with sdpa_kernel(SDPBackend.MATH):
        assert flops_counter(network, x) == counter.get_total_flops() / 2
    assert inspect(network, size).multiply_adds == flops_counter(network, x) == counter.get_total_flops() / 2
    assert flops_counter(network, torch.rand(3, 3, *size)) == 3 * flops_counter(network, x)


def test_attention_counts_both_products():
    x = torch.rand(1, 7, 12)
    by_hand = 7 * 12 * 36 + 2 * 7 * 7 * 12 + 7 * 12 * 12
    found = inspect(nn.MultiheadAttention(12, 3, batch_first=True), inputs=(x, x, x))
    assert found.multiply_adds == by_hand
    assert len(found.layers) == 1
    assert found.parameters == found.layers[0].parameters == 12 * 36 + 36 + 12 * 12 + 12
    assert torch.backends.mha.get_fastpath_enabled()
    encoder = nn.TransformerEncoderLayer(12, 3, 24, batch_first=True)
    assert inspect(encoder, inputs=x).multiply_adds == by_hand + 2 * 7 * 12 * 24


def test_recurrent_networks_count():
    assert inspect(nn.LSTM(8, 5, num_layers=2), inputs=torch.rand(4, 1, 8)).multiply_adds == 4 * 20 * (8 + 5 + 5 + 5)


def test_size_that_is_not_square_and_systems_own():
    assert inspect(ResNet(0, [1, 1], width=4), (32, 64)).layers[-1].output == (8,)
    assert inspect(LeNet(in_channels=1, image_size=28)).size == (28, 28)
    assert inspect(ResNet(5, [1], width=4, in_channels=1), 16).layers[0].output == (1, 16, 16)


def test_a_detector_is_asked_to_predict():
    from oculi import catalogue
    from oculi.learn.training import build

    system = build(catalogue.recipe("faster_rcnn"), tiny=True)
    assert isinstance(system, FasterRCNN)
    found = inspect(system)
    assert found.multiply_adds > 0
    assert sum(layer.parameters for layer in found.layers) == found.parameters


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.twice, self.idle = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(3, 1, 1))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.twice(self.twice(x)) * self.scale)


def test_parameters_count_once_and_in_place_layers_take_no_memory():
    found = inspect(Shared(), 8)
    rows = {layer.name: layer for layer in found.layers}
    assert found.parameters == 84 + 20 + 3 == sum(layer.parameters for layer in found.layers)
    assert (rows["twice"].parameters, rows["twice (2)"].parameters) == (84, 0)
    assert rows["twice"].multiply_adds == rows["twice (2)"].multiply_adds == 81 * 64
    assert rows["idle"].kind == "Linear (did not run)"
    assert rows["scale"].parameters == 3
    assert rows["act"].memory == 0
    assert found.memory == 3 * 4 * 3 * 64


def test_leaves_the_network_as_it_was():
    network = ResNet(5, [1], width=4).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    inspect(network, 16)
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_as_dictionary_and_as_table():
    found = inspect(LeNet(), 32)
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["layers"][-1]["receptive_field"] == ["all", "all"]
    assert plain["multiply_adds"] == found.multiply_adds
    lines = str(found).splitlines()
    assert lines[0].split("  ")[0] == "layer"
    assert lines[-1].split()[0] == "total"
    assert "62,006" in lines[-1]
    assert not any(line.startswith("relu") for line in lines)
    assert any(line.startswith("relu") for line in found.table(every=True).splitlines())


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="size: expected positive rows and columns, got 0 x 3"):
        inspect(LeNet(), (0, 3))
    with pytest.raises(ValueError, match="size: Linear does not say what size it takes"):
        inspect(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="inputs: LeNet cannot run with 1x3x8x8"):
        inspect(LeNet(), 8)


def test_speed_of_the_machine_is_another_thing():
    assert operations_per_second(64, 0.01) > 1e6
