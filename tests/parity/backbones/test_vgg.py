"""VGG against torchvision: equal outputs in both modes and gradients at equal weights, and the numbers of parameters."""

import pytest
import torch
from torch import nn

from agreement import copy_in_order
from oculi.backbones.vgg import VGG
from oracles import torchvision

DEPTHS = {11: [1, 1, 2, 2, 2], 13: [2, 2, 2, 2, 2], 16: [2, 2, 3, 3, 3], 19: [2, 2, 4, 4, 4]}
WIDTH, HIDDEN = 8, 32  # narrow: the full network's weights would cost seconds and half a gigabyte each


def narrow(depth, norm):
    """torchvision's network by its own layer maker, narrow, and ours with its weights and batch statistics."""
    vgg = torchvision().models.vgg
    layers = [v if v == "M" else v * WIDTH // 64 for v in vgg.cfgs["ABDE"[list(DEPTHS).index(depth)]]]
    with torch.device("meta"):
        theirs = vgg.VGG(nn.Identity(), num_classes=10, init_weights=False, dropout=0.3)
    torch.manual_seed(0)
    theirs.features = vgg.make_layers(layers, norm)
    for index, (inputs, outputs) in {0: (8 * WIDTH * 49, HIDDEN), 3: (HIDDEN, HIDDEN), 6: (HIDDEN, 10)}.items():
        theirs.classifier[index] = nn.Linear(inputs, outputs)
    theirs.train()(torch.rand(4, 3, 64, 64))  # batch statistics that are not trivial
    ours = VGG(10, DEPTHS[depth], WIDTH, norm, hidden=[HIDDEN, HIDDEN], dropout=0.3)
    copy_in_order(theirs, ours)
    return theirs, ours


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("depth", DEPTHS)
def test_equals_torchvision(depth, norm):
    theirs, ours = narrow(depth, norm)
    image = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(ours.eval()(image), theirs.eval()(image), rtol=1e-5, atol=1e-6)
    outputs = []
    for network in (ours.train(), theirs.train()):
        torch.manual_seed(1)  # the same units drop out
        outputs.append(network(image))
        outputs[-1].square().mean().backward()
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    for mine, other in pairs:
        scale = float(other.grad.abs().max())
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-4 * scale + 1e-7)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("depth", DEPTHS)
def test_layers_of_the_full_size(depth, norm):
    with torch.device("meta"):
        theirs = getattr(torchvision().models, f"vgg{depth}{'_bn' if norm else ''}")(init_weights=False)
        ours = VGG(1000, DEPTHS[depth], norm=norm)
    shapes = [v.shape for key, v in ours.state_dict().items() if not key.startswith("pixel_")]
    assert shapes == [v.shape for v in theirs.state_dict().values()]
