"""ResNet against torchvision: equal outputs and gradients at equal weights, equal numbers of parameters."""

import pytest
import torch

from oculi.backbones.resnet import ResNet
from oracles import torchvision


def copy_weights(theirs, ours):
    """Both list their layers in the same order but for the skip convolution, which torchvision names last too."""
    source = [v for k, v in theirs.state_dict().items()]
    target = {k: v for k, v in ours.state_dict().items() if not k.startswith("pixel_")}
    assert [tuple(v.shape) for v in source] == [tuple(v.shape) for v in target.values()]
    ours.load_state_dict(dict(zip(target, source, strict=True)), strict=False)


@pytest.mark.parametrize(
    ("name", "depths", "bottleneck", "parameters"),
    [("resnet18", [2, 2, 2, 2], False, 11_689_512), ("resnet50", [3, 4, 6, 3], True, 25_557_032)],
)
def test_equals_torchvision(name, depths, bottleneck, parameters):
    torch.manual_seed(0)
    theirs = getattr(torchvision().models, name)()
    ours = ResNet(1000, depths, bottleneck)
    copy_weights(theirs, ours)
    assert sum(p.numel() for p in ours.parameters()) == parameters
    image = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(ours.train()(image), theirs.train()(image), rtol=1e-5, atol=1e-5)
    ours(image).square().mean().backward()
    theirs(image).square().mean().backward()
    theirs.zero_grad(), ours.zero_grad()
    ours.eval()(image).square().mean().backward()
    theirs.eval()(image).square().mean().backward()
    torch.testing.assert_close(ours.stem[0].weight.grad, theirs.conv1.weight.grad, rtol=1e-4, atol=1e-6)
