"""All-CNN-C and what it is compared with, against the paper's layers written out: outputs and gradients."""

import pytest
import torch
from torch import nn

from oculi.backbones.all_convolutional_network import AllConvolutionalNetwork

POOL = "pool"
LAYERS = {  # (inputs, outputs, kernel, stride) of each convolution up to the class maps
    "strided": [(3, 96, 3, 1), (96, 96, 3, 1), (96, 96, 3, 2), (96, 192, 3, 1), (192, 192, 3, 1), (192, 192, 3, 2)],
    "pool": [(3, 96, 3, 1), (96, 96, 3, 1), POOL, (96, 192, 3, 1), (192, 192, 3, 1), POOL],
    "merged": [(3, 96, 3, 1), (96, 96, 3, 2), (96, 192, 3, 1), (192, 192, 3, 2)],
    "conv_pool": [
        *[(3, 96, 3, 1), (96, 96, 3, 1), (96, 96, 3, 1), POOL],
        *[(96, 192, 3, 1), (192, 192, 3, 1), (192, 192, 3, 1), POOL],
    ],
}


def by_hand(kind):
    layers = []
    for layer in [*LAYERS[kind], (192, 192, 3, 1), (192, 192, 1, 1)]:
        if layer is POOL:
            layers.append(nn.MaxPool2d(3, 2, 1))
        else:
            inputs, outputs, kernel, stride = layer
            layers += [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(192, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("kind", LAYERS)
def test_equals_the_layers_written_out(kind):
    torch.manual_seed(0)
    theirs = by_hand(kind)
    ours = AllConvolutionalNetwork(downsampling=kind, dropout=0.0, input_dropout=0.0)
    # ours lists the stages before what lies between them; theirs runs in the order of the layers
    order = [*ours.stages[0].parameters(), *ours.downs[0].parameters(), *ours.stages[1].parameters()]
    order += [*ours.downs[1].parameters(), *ours.stages[2].parameters(), *ours.head.parameters()]
    with torch.no_grad():
        for mine, other in zip(order, theirs.parameters(), strict=True):
            mine.copy_(other)
    image = torch.rand(2, 3, 16, 24)
    torch.testing.assert_close(ours.eval()(image), theirs.eval()(image), rtol=1e-5, atol=1e-6)
    for network in (ours.train(), theirs.train()):
        network(image).square().mean().backward()
    for mine, other in zip(order, theirs.parameters(), strict=True):
        scale = float(other.grad.abs().max())
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5 * scale)
