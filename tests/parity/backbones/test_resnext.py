"""ResNeXt against torchvision: equal outputs and gradients at equal weights; a grouped block is a sum of branches."""

import pytest
import torch
from torch.nn import functional as F

from agreement import copy_in_order
from oculi.backbones.resnext import AggregatedBlock, ResNeXt
from oracles import torchvision


def settle(network):
    """Batch norm statistics and scales that are not their initial ones."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    with torch.no_grad():
        network.train()(torch.rand(2, 3, 64, 64))
    return network


def test_equals_torchvision():
    torch.manual_seed(0)
    theirs, ours = settle(torchvision().models.resnext50_32x4d()), ResNeXt()
    copy_in_order(theirs, ours)
    image = torch.rand(2, 3, 64, 64)
    for mode in (False, True):
        mine, other = ours.train(mode)(image), theirs.train(mode)(image)
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    mine.square().mean().backward()
    other.square().mean().backward()
    for a, b in (
        (ours.stem[0].weight, theirs.conv1.weight),
        (ours.stages[2][1].transform[0].weight, theirs.layer3[1].conv2.weight),
        (ours.stages[1][0].skip[1].weight, theirs.layer2[0].downsample[1].weight),
        (ours.head.weight, theirs.fc.weight),
    ):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5 * float(b.grad.abs().max()))


@pytest.mark.parametrize("stride", [1, 2])
def test_the_grouped_block_is_the_sum_of_its_branches(stride):
    """Figure 3: (a) branches added = (c) one grouped convolution. Eval mode, where batch norm is a scale and a shift."""
    torch.manual_seed(0)
    cardinality, d = 8, 4
    block = AggregatedBlock(64, cardinality * d, 64, stride, cardinality)
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean), torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5), torch.nn.init.normal_(module.bias)
    block.eval()
    x = torch.randn(2, 64, 9, 9)

    def layer(module, x, rows, columns=slice(None), stride=1):
        conv, norm = module
        y = F.conv2d(x, conv.weight[rows, columns], stride=stride, padding=conv.padding)
        return F.batch_norm(y, norm.running_mean[rows], norm.running_var[rows], norm.weight[rows], norm.bias[rows])

    total, every = 0, slice(None)
    for branch in range(cardinality):
        own = slice(branch * d, (branch + 1) * d)
        y = layer(block.reduce, x, own).relu()
        y = layer(block.transform, y, own, stride=stride).relu()
        total = total + F.conv2d(y, block.expand[0].weight[:, own])
    norm = block.expand[1]
    total = F.batch_norm(total, norm.running_mean, norm.running_var, norm.weight[every], norm.bias)
    torch.testing.assert_close(block(x), (total + block.skip(x)).relu(), rtol=1e-5, atol=1e-5)


def test_one_dense_convolution_with_zeros_between_the_groups_is_the_same():
    torch.manual_seed(0)
    x, weight = torch.randn(1, 8, 5, 5), torch.randn(8, 2, 3, 3)
    dense = torch.zeros(8, 8, 3, 3)
    for group in range(4):
        dense[2 * group : 2 * group + 2, 2 * group : 2 * group + 2] = weight[2 * group : 2 * group + 2]
    torch.testing.assert_close(F.conv2d(x, weight, groups=4), F.conv2d(x, dense), rtol=1e-5, atol=1e-5)
