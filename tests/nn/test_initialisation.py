"""Initialisers: the spread that each promises, LSUV's unit variance, Fixup's identity, and why zeros do not learn."""

import pytest
import torch
from torch import nn

from oculi.nn.initialisation import FixupBranch, fixup_init, initialise, layers, lsuv_init


def linear(inputs, outputs, name, **options):
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs)
    initialise(layer, name, **options)
    return layer.weight.detach()


def test_uniform_and_normal():
    weight = linear(200, 200, "uniform")
    assert -0.2 <= float(weight.min()) < -0.199 < 0.199 < float(weight.max()) <= 0.2
    assert float(linear(200, 200, "normal").std()) == pytest.approx(0.1, rel=0.02)
    assert float(linear(200, 200, "normal", std=0.5).std()) == pytest.approx(0.5, rel=0.02)


def test_kaiming():
    """sqrt(2 / 512) = 0.0625 and sqrt(6 / 100) = 0.2449; torch's own default is narrower, 1 / sqrt(n)."""
    assert float(linear(512, 400, "kaiming_normal").std()) == pytest.approx(0.0625, rel=0.01)
    bound = float(linear(100, 500, "kaiming_uniform").abs().max())
    assert bound == pytest.approx(0.2449, rel=1e-2)
    assert bound <= (6 / 100) ** 0.5
    assert float(nn.Linear(16, 2000).weight.detach().abs().max()) == pytest.approx(0.25, rel=1e-2)


def test_xavier():
    assert float(linear(300, 100, "xavier_uniform").abs().max()) == pytest.approx((6 / 400) ** 0.5, rel=1e-2)
    assert float(linear(300, 100, "xavier_normal").var()) == pytest.approx(2 / 400, rel=2e-2)


def test_orthogonal():
    weight = linear(40, 60, "orthogonal")
    torch.testing.assert_close(weight.T @ weight, torch.eye(40), rtol=0, atol=1e-5)


def deep(width=32, depth=8):
    blocks = [module for _ in range(depth) for module in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*blocks, nn.Linear(width, 4))


def test_kaiming_keeps_the_scale_through_relus_and_a_small_normal_does_not():
    torch.manual_seed(0)
    data, scales = torch.randn(256, 128), {}
    for name in ("kaiming_normal", "normal"):
        network = deep(128, 20)
        initialise(network, name, **({"std": 0.01} if name == "normal" else {}))
        scales[name] = float(network[:-1](data).detach().square().mean().sqrt())
    assert 0.2 < scales["kaiming_normal"] < 5
    assert scales["normal"] < 1e-10


def test_zeros_never_learn():
    torch.manual_seed(0)
    network, data = deep(8, 2), torch.randn(16, 8)
    initialise(network, "zeros")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.mse_loss(network(data), torch.ones(16, 4)).backward()
        optimizer.step()
    for layer in layers(network):
        assert bool((layer.weight == 0).all())


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_lsuv_gives_every_layer_unit_variance(kind):
    torch.manual_seed(0)
    if kind == "linear":
        network, data = deep(), 3 * torch.randn(128, 32) + 1
    else:
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(16 * 25, 10),
        )
        data = torch.rand(32, 3, 14, 14)
    network.train()
    lsuv_init(network, data)
    seen = []
    for layer in layers(network):
        layer.register_forward_hook(lambda module, given, output: seen.append(float(output.detach().var())))
    network(data)
    assert len(seen) == len(layers(network))
    assert max(abs(v - 1) for v in seen) <= 0.1
    assert network.training


def test_lsuv_leaves_what_the_data_do_not_reach():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.used(x)

    network = Half()
    lsuv_init(network, torch.randn(64, 8))
    torch.testing.assert_close(network.unused.weight @ network.unused.weight.T, torch.eye(8), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="data: a layer's output does not vary"):
        lsuv_init(network, torch.zeros(4, 8))


class Residual(nn.Module):
    def __init__(self, depth, width=64):
        super().__init__()
        self.branches = nn.ModuleList(
            FixupBranch(nn.Linear(width, width, bias=False), nn.ReLU(), nn.Linear(width, width, bias=False))
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 4)

    def body(self, x):
        for branch in self.branches:
            x = x + branch(x)
        return x

    def forward(self, x):
        return self.head(self.body(x))


def test_fixup_starts_as_the_identity_and_one_step_is_small_at_any_depth():
    data = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    changes = []
    for depth in (4, 16, 64):
        torch.manual_seed(0)
        network = Residual(depth)
        fixup_init(network.branches, network.head)
        assert torch.equal(network.body(data), data)
        assert torch.equal(network(data), torch.zeros(64, 4))
        first = network.branches[0].sequence[0].weight.detach()
        assert float(first.std()) == pytest.approx((2 / 64) ** 0.5 * depth**-0.5, rel=0.05)  # m = 2: L^(-1/2)
        nn.init.normal_(network.head.weight, std=0.1)
        network(data).square().sum(1).mean().backward()
        before = network(data).detach()
        with torch.no_grad():
            for p in network.branches.parameters():
                p -= 0.01 * p.grad
            changes.append(float((network(data) - before).abs().mean()))
    assert max(changes) < 5 * min(changes)  # the change does not grow with the depth


def test_bad_input():
    with pytest.raises(ValueError, match="name: expected one of uniform"):
        initialise(nn.Linear(2, 2), "he")
    with pytest.raises(ValueError, match="branch 0 has 1"):
        fixup_init([nn.Linear(2, 2)])
    with pytest.raises(ValueError, match="sequence"):
        FixupBranch(nn.Linear(2, 2))
