"""The two theories of batch norm: drift of inputs and shift of gradients by hand, predictiveness on a known landscape."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from oculi.data.datasets import training_batches
from oculi.data.digits import load as digits
from oculi.fundamentals.mlp import MLP
from oculi.input_contract import InputContract
from oculi.learn.internal_covariate_shift import gradient_shift, input_drift, predictiveness
from oculi.nn.classification import classification_loss
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch


class Deep(System):
    """A row of layers on digits, each before batch norm or not; weights `spread` times as large as He's."""

    answer = Classes

    def __init__(self, norm: bool, depth: int = 6, width: int = 32, spread: float = 1.0):
        super().__init__(InputContract(8, 8, 1))
        widths = [64, *[width] * depth]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            linear = nn.Linear(inputs, outputs, bias=False)
            nn.init.normal_(linear.weight, std=spread * (2 / inputs) ** 0.5)
            layers += [linear, *([nn.BatchNorm1d(outputs)] if norm else []), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 10))

    def loss(self, batch):
        return classification_loss(self.layers(self.normalize(batch.image).flatten(1)), batch.label)


class Product(System):
    """Two numbers in a row, the loss (b a x - 1)^2 / 2 with x = 1: every gradient is known."""

    answer = Classes

    def __init__(self):
        super().__init__(InputContract(1, 1, 1))
        self.a, self.b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.a.weight, 2.0)
        nn.init.constant_(self.b.weight, 1.5)

    def loss(self, batch):
        return {"square": (self.b(self.a(batch.image.flatten(1))) - 1).square().mean() / 2}


def one() -> Batch:
    return Batch(image=torch.ones(1, 1, 1, 1))


def state(system):
    return {name: value.clone() for name, value in system.state_dict().items()}


def test_gradient_shift_by_hand():
    """d/db = (ab - 1) a is 4 at a = 2, b = 1.5; the first layer's step of 0.1 x (ab - 1) b = 0.3 makes it 1.55 x 1.7."""
    found = gradient_shift(Product(), one(), 0.1)
    assert found.distance == pytest.approx({"a": 0.0, "b": 4 - 1.55 * 1.7}, abs=1e-5)
    assert found.cosine == pytest.approx({"a": 1.0, "b": 1.0})


def test_predictiveness_by_hand():
    """One step of 0.1 from (2, 1.5) by the gradient (3, 4) gives (1.7, 1.1)."""
    found = predictiveness(Product(), one(), [0.1])
    error = 1.7 * 1.1 - 1
    assert found.loss_range == pytest.approx(2 - error**2 / 2, rel=1e-5)
    change = ((error * 1.1 - 3) ** 2 + (error * 1.7 - 4) ** 2) ** 0.5
    assert found.gradient_change == pytest.approx(change, rel=1e-5)
    assert found.smoothness == pytest.approx(change / (0.1 * 5), rel=1e-5)


def test_input_drift_by_hand():
    """Twice the weights of a layer: what follows it has means twice as far out, and twice the spread."""
    torch.manual_seed(0)
    system = MLP(3, [7], "leaky_relu", image_size=4)
    batch = Batch(image=torch.rand(50, 1, 4, 4), label=torch.arange(50) % 3)

    def step():
        with torch.no_grad():
            system.layers[0].weight *= 2
            system.layers[0].bias *= 2

    hidden = system.layers[1](system.layers[0](batch.image.flatten(1))).detach()
    found = input_drift(system, batch, step)
    assert found.mean["layers.0"] == found.spread["layers.0"] == 0
    last = list(found.mean)[-1]
    wanted = (hidden.mean(0).abs() / hidden.std(0, correction=0)).mean()
    assert found.mean[last] == pytest.approx(float(wanted), rel=1e-4)
    assert found.spread[last] == pytest.approx(torch.tensor(2.0).log().item(), rel=1e-4)


def measured(norm: bool, steps: int = 8, rate: float = 0.02):
    """The same training with and without norm; the measures at every fourth step."""
    torch.manual_seed(0)
    splits = digits()
    system = Deep(norm, spread=2.0)
    optimizer = torch.optim.SGD(system.parameters(), rate)
    drift, shift, smooth = [], [], []
    for k, batch in enumerate(training_batches(splits.train, 64, steps, seed=0)):

        def step(batch=batch):
            optimizer.zero_grad()
            system.loss(batch)["cross_entropy"].backward()
            optimizer.step()

        if k % 4 == 3:
            smooth.append(predictiveness(system, batch, [0.005, 0.01, 0.02]))
            shift.append(gradient_shift(system, batch, rate))
            drift.append(input_drift(system, batch, step))
        else:
            step()
    return drift, shift, smooth


def test_with_weights_drawn_too_large_batch_norm_is_steadier_by_all_measures():
    bare, normed = measured(False), measured(True)
    for a, b in zip(bare[2], normed[2], strict=True):
        assert a.smoothness > 2 * b.smoothness
        assert a.gradient_change > 2 * b.gradient_change
        assert a.loss_range > 2 * b.loss_range
    for measure in ("mean", "spread"):
        drifts = [sum(sum(getattr(d, measure).values()) for d in found[0]) for found in (bare, normed)]
        assert drifts[0] > 2 * drifts[1]
    assert all(x.distance["layers.3" if k else "layers.2"] > 0 for k in (0, 1) for x in (bare, normed)[k][1])
    assert all(next(iter(x.distance.values())) == pytest.approx(0, abs=1e-6) for x in bare[1] + normed[1])


def test_nothing_is_left_behind():
    torch.manual_seed(0)
    system = Deep(True, 2)
    batch = Batch(image=torch.rand(8, 1, 8, 8), label=torch.arange(8))
    before, random = state(system), torch.get_rng_state()
    gradient_shift(system, batch, 0.1)
    predictiveness(system, batch, [0.1, 0.2])
    input_drift(system, batch, lambda: None)
    assert all(torch.equal(value, before[name]) for name, value in state(system).items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in system.parameters())
    assert not any(m._forward_pre_hooks for m in system.modules())


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="rate: expected a positive number, got 0"):
        gradient_shift(Product(), one(), 0.0)
    with pytest.raises(ValueError, match="lengths: expected at least one positive number"):
        predictiveness(Product(), one(), [])
