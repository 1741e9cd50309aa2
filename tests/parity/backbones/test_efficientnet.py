"""EfficientNet against torchvision: equal outputs, gradients and statistics at equal weights; B0 to B7 of equal size."""

import pytest
import torch
from torch import nn

from agreement import copy_in_order
from oculi.backbones.efficientnet import VARIANTS, EfficientNet
from oracles import torchvision


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]


def test_equals_torchvision():
    torch.manual_seed(0)
    theirs, ours = torchvision().models.efficientnet_b0().train(), EfficientNet().train()
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        theirs(image + 0.1)  # statistics that are not 0 and 1
    copy_in_order(theirs, ours)
    torch.testing.assert_close(ours.eval()(image), theirs.eval()(image), rtol=1e-5, atol=1e-6)
    torch.manual_seed(1)
    out = ours.train()(image)
    torch.manual_seed(1)  # the same blocks and features dropped
    expected = theirs.train()(image)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    out.square().mean().backward()
    expected.square().mean().backward()
    block, reference = ours.stages[2][1], theirs.features[3][1].block
    pairs = [
        (ours.stem[0], theirs.features[0][0]),
        (block.expand[0], reference[0][0]),
        (block.depthwise[0], reference[1][0]),
        (block.reweight.reduce, reference[2].fc1),
        (block.project[1], reference[3][1]),
        (ours.head[1], theirs.classifier[1]),
    ]
    for one, other in pairs:
        scale = float(other.weight.grad.abs().max())
        torch.testing.assert_close(one.weight.grad, other.weight.grad, rtol=1e-3, atol=1e-4 * scale)
    for one, other in zip(norms(ours), norms(theirs), strict=True):
        torch.testing.assert_close(one.running_var, other.running_var, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_torchvisions(variant):
    with torch.device("meta"):
        theirs, ours = getattr(torchvision().models, f"efficientnet_{variant}")(), EfficientNet(variant=variant)
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]
    assert ours.head[0].p == theirs.classifier[0].p
    assert [(m.eps, m.momentum) for m in norms(ours)] == [(m.eps, m.momentum) for m in norms(theirs)]
