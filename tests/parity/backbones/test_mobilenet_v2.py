"""MobileNetV2 against torchvision: equal outputs, gradients and numbers of parameters, at every published width."""

import pytest
import torch

from agreement import copy_in_order
from oculi.backbones.mobilenet_v2 import MobileNetV2
from oracles import timm, torchvision


def test_equals_torchvision():
    torch.manual_seed(0)
    theirs, ours = torchvision().models.mobilenet_v2().train(), MobileNetV2().train()
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        theirs(image + 0.1)  # statistics that are not 0 and 1
    copy_in_order(theirs, ours)
    torch.testing.assert_close(ours.eval()(image), theirs.eval()(image), rtol=1e-5, atol=1e-6)
    torch.manual_seed(1)
    out = ours.train()(image)
    torch.manual_seed(1)  # the same dropout
    expected = theirs.train()(image)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    out.square().mean().backward()
    expected.square().mean().backward()
    pairs = [
        (ours.stem[0], theirs.features[0][0]),
        (ours.stages[1][1].expand[0], theirs.features[3].conv[0][0]),
        (ours.stages[1][1].depthwise[0], theirs.features[3].conv[1][0]),
        (ours.stages[1][1].project[1], theirs.features[3].conv[3]),
        (ours.head[1], theirs.classifier[1]),
    ]
    for one, other in pairs:
        scale = float(other.weight.grad.abs().max())
        torch.testing.assert_close(one.weight.grad, other.weight.grad, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.4])
def test_published_widths(width):
    with torch.device("meta"):
        theirs, ours = timm().create_model(f"mobilenetv2_{round(100 * width):03d}"), MobileNetV2(width=width)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
