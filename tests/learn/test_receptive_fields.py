"""Receptive fields followed through networks, held against the support of the gradient."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oculi.learn.inspection import inspect
from oculi.nn.attention import MultiHeadAttention, attend


class Call(nn.Module):
    """A function with a name."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.inner = function, nn.ModuleList(modules)

    def forward(self, x):
        return self.function(x, *self.inner)


def positive(network):
    """Weights that cannot cancel, so that the gradient's support is all that is seen."""
    for p in network.parameters():
        nn.init.constant_(p, 0.1)
    return network.double()


def support(network, size):
    """The most rows and columns of the picture that one place of the output depends on."""
    x = torch.rand(1, 2, *size, dtype=torch.float64, requires_grad=True)
    y = network(x).sum(1)[0]
    most = [0, 0]
    for row in range(y.shape[0] // 2 - 1, y.shape[0] // 2 + 2):
        for column in range(y.shape[1] // 2 - 1, y.shape[1] // 2 + 2):
            g = torch.autograd.grad(y[row, column], x, retain_graph=True)[0].abs().sum((0, 1)) > 0
            if not bool(g.any()):  # between the taps of a dilated filter
                continue
            seen = [int(g.any(1 - k).nonzero().max() - g.any(1 - k).nonzero().min()) + 1 for k in (0, 1)]
            most = [max(a, b) for a, b in zip(most, seen)]
    return tuple(most)


def c(*args, **kwargs):
    return nn.Conv2d(2, 2, *args, **kwargs)


NETWORKS = {
    "two 3x3": lambda: nn.Sequential(c(3), c(3)),
    "padded and strided": lambda: nn.Sequential(c(3, 2, 1), c(5, 2, 2), c(3, padding=1)),
    "not square": lambda: nn.Sequential(c((3, 5), (1, 2), (1, 2)), c((1, 3), padding=(0, 1))),
    "dilated": lambda: nn.Sequential(c(3, padding=2, dilation=2), c(3, padding=(3, 1), dilation=(3, 1))),
    "depthwise and pointwise": lambda: nn.Sequential(c(5, padding=2, groups=2), c(1), c(3, 2, 1)),
    "average pooling": lambda: nn.Sequential(c(3, padding=1), nn.AvgPool2d(3, 2, 1), c(3, padding=1)),
    "transposed 4 by 2": lambda: nn.Sequential(c(3, 2, 1), nn.ConvTranspose2d(2, 2, 4, 2, 1)),
    "transposed 3 by 2": lambda: nn.Sequential(c(3, 2, 1), nn.ConvTranspose2d(2, 2, 3, 2, 1, 1)),
    "transposed 2 by 2, then 3x3": lambda: nn.Sequential(
        c(2, 2), nn.ConvTranspose2d(2, 2, 2, 2), c(3, padding=1), c(3, padding=1)
    ),
    "transposed and dilated": lambda: nn.Sequential(c(3, 2, 1), nn.ConvTranspose2d(2, 2, 3, 2, 2, 1, dilation=2)),
    "nearest": lambda: nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2), c(3, padding=1), c(3, padding=1)),
    "residual": lambda: Call(lambda x, a, b: F.relu(b(a(x)) + x), c(3, padding=1), c(5, padding=2)),
    "unequal branches": lambda: Call(
        lambda x, a, b: torch.cat([a(x), b(x), F.avg_pool2d(x, 3, 2, 1)], 1), c(3, 2, 1), c(7, 2, 3)
    ),
    "patch merging": lambda: nn.Sequential(
        Call(lambda x: torch.cat([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)),
        nn.Conv2d(8, 2, 3, padding=1),
    ),
    "pixel shuffle": lambda: nn.Sequential(nn.Conv2d(2, 8, 3, 2, 1), nn.PixelShuffle(2), c(3, padding=1)),
    "padding by hand": lambda: nn.Sequential(nn.ZeroPad2d((2, 1, 0, 3)), c(4), nn.ReflectionPad2d(1), c(3)),
    "tokens and back": lambda: Call(
        lambda x, a, b, d: b(d(a(x).flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (16, -1))),
        c(2, 2),
        c(3, padding=1),
        nn.Linear(2, 2),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_is_the_support_of_the_gradient(name):
    network = positive(NETWORKS[name]()).eval()
    size = (32, 40)
    found = inspect(network, inputs=torch.rand(1, 2, *size, dtype=torch.float64)).layers[-1]
    assert found.receptive_field == support(network, size)
    rows, columns = found.output[1:]
    assert found.stride == (pytest.approx(size[0] / rows, abs=0.3), pytest.approx(size[1] / columns, abs=0.3))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_interpolation_sees_its_neighbours(mode):
    network = Call(lambda x: F.interpolate(x, scale_factor=2, mode=mode))
    assert inspect(network, 16).layers[-1].receptive_field == {"bilinear": (2, 2), "bicubic": (4, 4)}[mode]
    assert inspect(network, 16).layers[-1].stride == (0.5, 0.5)
    shrink = Call(lambda x: F.interpolate(x, scale_factor=0.25, mode="bilinear", antialias=True))
    assert inspect(shrink, 16).layers[-1].receptive_field == (8, 8)


def last(function, size=32):
    layer = inspect(Call(function), size).layers[-1]
    return layer.receptive_field, layer.stride


def test_everything_along_an_axis_is_everything():
    everything = (math.inf, math.inf)
    assert last(lambda x: x.mean((2, 3), keepdim=True) * x) == (everything, (1, 1))  # a gate
    assert last(lambda x: x.mean(3)) == ((1, math.inf), None)
    assert last(lambda x: x.amax((-1, -2))) == (everything, None)
    assert last(lambda x: F.adaptive_avg_pool2d(x, 1)) == (everything, None)
    assert last(lambda x: F.adaptive_avg_pool2d(x, (4, 8))) == ((8, 4), (8, 4))
    assert last(lambda x: x.flatten(2).softmax(-1)) == (everything, (1, 1))
    assert last(lambda x: F.group_norm(x, 1)) == (everything, (1, 1))
    assert last(lambda x: F.instance_norm(x)) == (everything, (1, 1))
    assert last(lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (3,))) == ((1, 1), (1, 1))
    assert last(lambda x: F.normalize(x)) == ((1, 1), (1, 1))
    assert last(lambda x: F.conv1d(x.flatten(2).transpose(1, 2), torch.ones(4, 1024, 1))) == (everything, None)
    assert last(lambda x: F.unfold(x, 4, stride=4) * 2) == ((4, 4), (4, 4))


def tokens(x):
    return F.avg_pool2d(x, 4).flatten(2).transpose(1, 2)


def windows(x, side=2):
    rows, columns = x.shape[2] // side, x.shape[3] // side
    x = x.unflatten(3, (columns, side)).unflatten(2, (rows, side)).permute(0, 2, 4, 3, 5, 1)
    return x.flatten(3, 4).flatten(1, 2).flatten(0, 1)


def test_attention_sees_all_tokens_that_it_attends_to():
    everything = (math.inf, math.inf)
    assert last(tokens) == ((4, 4), (4, 4))
    assert last(lambda x: F.scaled_dot_product_attention(*[tokens(x)] * 3)) == (everything, (4, 4))
    assert last(lambda x: attend(*[tokens(x)] * 3)) == (everything, (4, 4))
    module = nn.MultiheadAttention(3, 1, batch_first=True)
    assert inspect(Call(lambda x, m: m(*[tokens(x)] * 3)[0], module), 32).layers[-1].receptive_field == everything
    ours = inspect(Call(lambda x, m: m(tokens(x)), MultiHeadAttention(3, 1)), 32)
    assert ours.layers[-1].receptive_field == everything
    with_class_token = Call(lambda x: torch.cat([x.new_zeros(1, 1, 3), tokens(x)], 1)[:, 1:].unflatten(1, (8, 8)) * 1)
    assert inspect(with_class_token, 32).layers[-1].receptive_field == (4, 4)


def test_windows_see_no_further_than_their_side():
    def local(x):
        w = windows(F.avg_pool2d(x, 4))
        return F.scaled_dot_product_attention(w, w, w)

    assert last(local) == ((8, 8), (4, 4))
    assert last(lambda x: windows(F.avg_pool2d(x, 4)).mean(1)) == ((8, 8), (8, 8))


def test_what_is_not_known_sees_all():
    assert last(lambda x: x.flatten(2).index_select(2, torch.arange(9))) == ((math.inf, math.inf), None)


def test_what_does_not_see_the_picture_has_no_field():
    assert inspect(Call(lambda x, m: m(x.new_ones(1, 4)), nn.Linear(4, 4)), 8).layers[-1].receptive_field is None
