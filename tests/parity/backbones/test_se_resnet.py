"""SE-ResNet against timm: equal outputs and gradients at equal weights; without its gates it is the ResNet."""

import torch

from agreement import copy_in_order
from oculi.backbones.resnet import ResNet
from oculi.backbones.se_resnet import SEResNet
from oracles import timm


def settle(network):
    """Batch norm statistics and scales that are not their initial ones."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    with torch.no_grad():
        network.train()(torch.rand(2, 3, 64, 64))
    return network


def test_equals_timm():
    torch.manual_seed(0)
    theirs, ours = settle(timm().create_model("seresnet50")), SEResNet()
    copy_in_order(theirs, ours)
    image = torch.rand(2, 3, 64, 64)
    for mode in (False, True):
        mine, other = ours.train(mode)(image), theirs.train(mode)(image)
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    mine.square().mean().backward()
    other.square().mean().backward()
    block, gate = ours.resnet.stages[2][1], theirs.layer3[1]
    for a, b in (
        (ours.resnet.stem[0].weight, theirs.conv1.weight),
        (block.convs[2][2].reduce.weight, gate.se.fc1.weight),
        (block.convs[2][2].expand.bias, gate.se.fc2.bias),
        (block.convs[1][1].weight, gate.bn2.weight),
        (ours.resnet.head.weight, theirs.fc.weight),
    ):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5 * float(b.grad.abs().max()))


def test_open_gates_give_the_plain_network():
    torch.manual_seed(0)
    options = {"num_classes": 5, "depths": [1, 1], "bottleneck": False, "width": 8, "stem": "small", "image_size": 16}
    gated, plain = SEResNet(**options, reduction=4).eval(), ResNet(**options).eval()
    for stage in gated.resnet.stages:
        torch.nn.init.zeros_(stage[0].convs[-1][2].expand.weight)
        torch.nn.init.constant_(stage[0].convs[-1][2].expand.bias, 100)
    weights = gated.resnet.state_dict()
    plain.load_state_dict({k: weights[k] for k in plain.state_dict()})
    image = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(gated(image), plain(image), rtol=1e-5, atol=1e-6)
