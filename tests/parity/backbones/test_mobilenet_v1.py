"""MobileNet against timm: equal outputs, gradients and statistics at equal weights, equal numbers of parameters."""

import torch

from agreement import copy_in_order
from oculi.backbones.mobilenet_v1 import MobileNetV1
from oracles import timm


def test_equals_timm():
    torch.manual_seed(0)
    theirs, ours = timm().create_model("mobilenetv1_100").train(), MobileNetV1().train()
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        theirs(image + 0.1)  # statistics that are not 0 and 1
    copy_in_order(theirs, ours)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    torch.testing.assert_close(ours.eval()(image), theirs.eval()(image), rtol=1e-5, atol=1e-6)
    out, expected = ours.train()(image), theirs.train()(image)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    out.square().mean().backward()
    expected.square().mean().backward()
    pairs = [
        (ours.stem[0], theirs.conv_stem),
        (ours.stages[2][1].convs[0][0], theirs.blocks[2][1].conv_dw),
        (ours.stages[2][1].convs[1][0], theirs.blocks[2][1].conv_pw),
        (ours.stages[2][1].convs[1][1], theirs.blocks[2][1].bn2),
        (ours.head, theirs.classifier),
    ]
    for one, other in pairs:
        scale = float(other.weight.grad.abs().max())
        torch.testing.assert_close(one.weight.grad, other.weight.grad, rtol=1e-3, atol=1e-4 * scale)
    torch.testing.assert_close(ours.stem[1].running_var, theirs.bn1.running_var)
