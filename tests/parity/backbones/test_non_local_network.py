"""The non-local block against its formula position by position and against timm's; at its start it is the identity."""

import pytest
import torch

from oculi.backbones.non_local_network import NonLocalBlock, NonLocalNetwork
from oculi.backbones.resnet import ResNet
from oracles import timm


def by_hand(block, x):
    """z_i = W_z (1 / C(x) sum_j exp(theta(x_i)^T phi(x_j)) g(x_j)) + x_i, one position after the other."""

    def times(conv, vectors):
        return vectors @ conv.weight.flatten(1).T + conv.bias

    rows = []
    for picture in x:
        columns = picture.flatten(1).T
        theta, phi, g = (times(conv, columns) for conv in (block.theta, block.phi, block.g))
        y = []
        for i in range(len(columns)):
            f = torch.exp(theta[i] @ phi.T)
            y.append((f[:, None] * g).sum(0) / f.sum())
        rows.append(times(block.out[0], torch.stack(y)).T.reshape(picture.shape))
    return block.out[1](torch.stack(rows)) + x


def started(block):
    torch.nn.init.normal_(block.out[1].weight), torch.nn.init.normal_(block.out[1].bias)
    torch.nn.init.normal_(block.out[1].running_mean), torch.nn.init.uniform_(block.out[1].running_var, 0.5, 2)
    return block


@pytest.mark.parametrize("mode", [False, True])
def test_equals_the_formula(mode):
    torch.manual_seed(0)
    block, x = started(NonLocalBlock(8, 4)).train(mode), torch.randn(2, 8, 3, 5)
    torch.testing.assert_close(block(x), by_hand(block, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scaled", [False, True])
def test_equals_timm(scaled):
    """timm scales the scores by 1 / sqrt(channels) unless told not to."""
    torch.manual_seed(0)
    timm()
    from timm.layers import NonLocalAttn

    theirs, ours = NonLocalAttn(16, use_scale=scaled, rd_channels=8), NonLocalBlock(16, 8, 0.25 if scaled else 1.0)
    torch.nn.init.normal_(theirs.norm.weight)
    for mine, other in (
        (ours.theta, theirs.t),
        (ours.phi, theirs.p),
        (ours.g, theirs.g),
        (ours.out[0], theirs.z),
        (ours.out[1], theirs.norm),
    ):
        if hasattr(other, "weight") and other.weight.ndim == 4:
            torch.nn.init.normal_(other.weight, std=0.3), torch.nn.init.normal_(other.bias)
        mine.load_state_dict(other.state_dict())
    x = torch.randn(2, 16, 4, 6)
    mine, other = ours(x), theirs(x)
    torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    mine.square().sum().backward()
    other.square().sum().backward()
    torch.testing.assert_close(ours.phi.weight.grad, theirs.p.weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.g.weight.grad, theirs.g.weight.grad, rtol=1e-4, atol=1e-4)


def test_at_its_start_it_is_the_identity_and_the_network_the_resnet():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(NonLocalBlock(8, 4)(x), x)
    options = {"num_classes": 5, "depths": [1, 2], "bottleneck": False, "width": 8, "stem": "small", "image_size": 16}
    ours, plain = NonLocalNetwork(**options, non_local=[]), ResNet(**options)
    ours.resnet.load_state_dict(plain.state_dict())
    ours.resnet.stages[1].insert(1, NonLocalBlock(16, 8))  # into a trained network, before its last block
    image = torch.rand(2, 3, 16, 16)
    assert torch.equal(ours(image), plain(image))


def test_every_position_looks_at_every_other_one():
    torch.manual_seed(0)
    block, x = started(NonLocalBlock(4, 2)).eval(), torch.randn(1, 4, 3, 3, requires_grad=True)
    gradient = torch.autograd.grad((block(x) - x)[0, :, 0, 0].sum(), x)[0]
    assert (gradient[0].abs().sum(0) > 0).all()
    order = torch.randperm(9)
    shuffled = x.flatten(2)[:, :, order].unflatten(2, (3, 3))
    torch.testing.assert_close(
        block(shuffled), block(x).flatten(2)[:, :, order].unflatten(2, (3, 3)), atol=1e-5, rtol=1e-5
    )
