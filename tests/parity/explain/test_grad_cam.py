"""Grad-CAM against captum's LayerGradCam; transformers, frozen and broken systems."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oculi.backbones.resnet import ResNet
from oculi.explain.grad_cam import GradCAM, overlay
from oculi.input_contract import InputContract
from oculi.predictions import VIRIDIS
from oculi.system import System


def tiny():
    torch.manual_seed(0)
    return ResNet(5, [1, 1], width=8, stem="small", in_channels=3, image_size=16).eval()


@pytest.mark.parametrize("layer", ["stages.1", "stages.0", "stages.1.0.convs.1"])
def test_equals_captum(layer):
    attr = pytest.importorskip("captum.attr")
    system, image, target = tiny(), torch.rand(3, 3, 16, 24), torch.tensor([0, 4, 2])
    oracle = attr.LayerGradCam(system, system.get_submodule(layer))
    theirs = oracle.attribute(image, target, relu_attributions=True).detach()[:, 0]
    torch.testing.assert_close(GradCAM(layer).maps(system, image, target), theirs, rtol=1e-5, atol=1e-7)


def test_equation_by_hand_and_default_layer():
    system, image = tiny(), torch.rand(2, 3, 16, 16)
    maps = system.features(image)[-1].detach().requires_grad_()
    scores = system.head(maps.mean((2, 3)))
    best = scores.argmax(1)
    slope = torch.autograd.grad(scores.gather(1, best[:, None]).sum(), maps)[0].mean((2, 3), keepdim=True)
    expected = F.relu((slope * maps).sum(1)).detach()
    torch.testing.assert_close(GradCAM().maps(system, image), expected)
    heat = GradCAM()(system, image)
    assert heat.shape == (2, 16, 16)
    assert heat.min() >= 0
    assert torch.equal(heat.amax((1, 2)), torch.ones(2))


def test_leaves_the_system_as_it_was_and_works_frozen():
    system, image = tiny().train(), torch.rand(2, 3, 16, 16)
    state = {key: value.clone() for key, value in system.state_dict().items()}
    heat = GradCAM()(system, image)
    assert system.training
    assert all(p.grad is None for p in system.parameters())
    assert all(torch.equal(value, state[key]) for key, value in system.state_dict().items())
    assert not any(module._forward_hooks for module in system.modules())
    torch.testing.assert_close(GradCAM()(system.requires_grad_(False), image), heat)


def test_changes_when_the_weights_are_randomised():
    system, image, target = tiny(), torch.rand(2, 3, 16, 16), torch.tensor([0, 1])
    before = GradCAM()(system, image, target)
    system.stages[1][0].convs[0][0].reset_parameters()
    assert not torch.allclose(GradCAM()(system, image, target), before, atol=1e-2)


class Tokens(System):
    """Patches and a class token that attends to them: the smallest transformer classifier."""

    def __init__(self, image_size: int = 16):
        super().__init__(InputContract(image_size, image_size))
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.out = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, image):
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = self.norm(torch.cat([x.mean(1, keepdim=True), x], 1))
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.head(self.out(x + F.scaled_dot_product_attention(q, k, v))[:, 0])


def test_transformers_are_read_where_the_class_token_looks():
    torch.manual_seed(0)
    system, image = Tokens(), torch.rand(2, 3, 16, 24)
    raw = GradCAM().maps(system, image)
    assert raw.shape == (2, 4, 6)
    torch.testing.assert_close(raw, GradCAM("norm").maps(system, image))
    assert GradCAM()(system, image).shape == (2, 16, 24)


@pytest.mark.unchecked
def test_bad_input_is_named():
    system, image = tiny(), torch.rand(2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"no module stages\.9"):
        GradCAM("stages.9")(system, image)
    with pytest.raises(ValueError, match="head gives no feature maps"):
        GradCAM("head")(system, image)
    with pytest.raises(ValueError, match="target: expected 2 class indices below 5"):
        GradCAM()(system, image, torch.tensor([0, 5]))


def test_overlay_shows_the_hottest_place_in_yellow():
    heat = torch.zeros(8, 8)
    heat[2, 3] = 1
    picture = overlay(torch.zeros(3, 8, 8), heat, strength=1.0)
    assert picture.size == (256, 256)
    assert picture.getpixel((3 * 32 + 16, 2 * 32 + 16)) == VIRIDIS[-1]
    assert picture.getpixel((0, 0)) == VIRIDIS[0]


def test_colours_grow_lighter_evenly():
    matplotlib = pytest.importorskip("matplotlib")
    table = matplotlib.colormaps["viridis"]
    for index, colour in enumerate(VIRIDIS):
        theirs = [round(255 * v) for v in table(index / 9)[:3]]
        assert max(abs(a - b) for a, b in zip(colour, theirs, strict=True)) <= 2
