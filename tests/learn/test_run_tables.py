"""Tables of runs, the noise of gradients, and the loss about a minimum."""

import pytest
import torch

from oculi.data.datasets import batches, training_batches
from oculi.data.digits import load as digits
from oculi.input_contract import InputContract
from oculi.learn.loss_landscape import direction, losses_along, sharpness
from oculi.learn.run_tables import (
    Row,
    additions,
    batch_sizes,
    gradient,
    gradient_noise_scale,
    learning_curve,
    more_data_would_help,
    scaled_lr,
)
from oculi.learn.training import build
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Sample, take

QUICK = {"training.steps": 60, "training.lr": 0.01, "arguments.hidden": [32], "training.warmup": 0}


def test_more_data_close_the_gap():
    rows = learning_curve("mlp", [30, 1000], QUICK)
    assert [row.value for row in rows] == [30, 1000]
    assert rows[0].validation < rows[1].validation
    assert rows[0].gap > rows[1].gap
    assert more_data_would_help([Row("1", 1, 1.0, 0.5), Row("2", 2, 1.0, 0.7)])
    assert not more_data_would_help([Row("1", 1, 1.0, 0.7), Row("2", 2, 1.0, 0.7)])  # flat
    assert not more_data_would_help([Row("1", 1, 0.6, 0.5), Row("2", 2, 0.7, 0.7)])  # no gap


def test_batches_and_rates_grow_together():
    rows = batch_sizes("mlp", [32, 128], QUICK)
    assert [row.name for row in rows] == ["32", "128"]
    assert all(row.validation > 0.8 for row in rows)
    assert scaled_lr(0.1, 64, 16) == pytest.approx(0.025)


def test_one_addition_at_a_time():
    rows = additions("mlp", [{"training.steps": 60}, {"training.lr": 0.0}], {**QUICK, "training.steps": 5})
    assert [row.name for row in rows] == ["as it is", "training.steps", "training.lr"]
    assert rows[1].value == pytest.approx(rows[1].validation - rows[0].validation)
    assert rows[1].value > 0.1  # longer is better
    assert rows[2].value < -0.3  # and nothing is learned at rate 0


class Mean(System):
    """The loss |w - x|^2 / 2 of samples x: the gradient's mean and covariance are known."""

    answer = Classes

    def __init__(self):
        super().__init__(InputContract(1, 1, 3))
        self.w = torch.nn.Parameter(torch.zeros(3))

    def loss(self, batch):
        return {"square": (self.w - batch.image.flatten(1)).square().sum(1).mean() / 2}


def test_gradient_noise_of_a_known_system():
    torch.manual_seed(0)
    data = [Sample(image=x.reshape(3, 1, 1)) for x in torch.randn(4000, 3) * 2 + 1]
    found = gradient_noise_scale(Mean(), data, 4, 64, draws=60)  # tr S / |G|^2 = 3 * 4 / 3
    assert found == pytest.approx(4, rel=0.35)
    (batch,) = training_batches(data, 4000, 1, 0)
    torch.testing.assert_close(gradient(Mean(), batch), -batch.image.mean((0, 2, 3)))


def ready():
    torch.manual_seed(0)
    system = build("resnet", tiny=True)
    return system, take(batches(digits().prepared(system.contract).train, 16), 2)


def test_directions_are_as_long_as_filters():
    system, _ = ready()
    made = direction(system, torch.Generator().manual_seed(0))
    for d, p in zip(made, system.parameters(), strict=True):
        if p.ndim < 2:
            assert not d.any()
        else:
            torch.testing.assert_close(d.flatten(1).norm(dim=1), p.detach().flatten(1).norm(dim=1))


def test_the_loss_along_directions_and_the_weights_stay():
    system, data = ready()
    generator = torch.Generator().manual_seed(1)
    both = [direction(system, generator) for _ in range(2)]
    before = [p.detach().clone() for p in system.parameters()]
    curve = losses_along(system, data, both[:1], 0.5, 5)
    plane = losses_along(system, data, both, 0.5, 5)
    assert all(torch.equal(p, b) for p, b in zip(system.parameters(), before, strict=True))
    torch.testing.assert_close(plane[:, 2], curve)
    assert system.training
    with torch.no_grad():
        here = torch.stack([system.eval().loss(batch)["cross_entropy"] for batch in data]).mean()
    assert float(curve[2]) == pytest.approx(float(here), rel=1e-5)


def test_a_steeper_bowl_is_sharper():
    """Loss a |w - x|^2 with a matrix of weights: four times as steep, four times as sharp."""

    class Bowl(System):
        answer = Classes

        def __init__(self, steep: float = 1.0):
            super().__init__(InputContract(1, 1, 1))
            self.steep, self.w = steep, torch.nn.Parameter(torch.ones(2, 3))

        def loss(self, batch):
            return {"square": self.steep * (self.w - 1).square().sum()}

    found = []
    for steep in (1.0, 4.0):
        one = Bowl(steep)
        d = direction(one, torch.Generator().manual_seed(0))
        found.append(sharpness(losses_along(one, [Batch(image=torch.zeros(1, 1, 1, 1))], [d], 1.0, 3)))
    assert found[1] == pytest.approx(4 * found[0])
    assert found[0] == pytest.approx(6, rel=1e-4)  # |d|^2 = |w|^2 = 6 at both ends


def test_bad_input():
    system, data = ready()
    with pytest.raises(ValueError, match="sizes: expected 1 to 1097"):
        learning_curve("mlp", [5000])
    with pytest.raises(ValueError, match="rows"):
        more_data_would_help([Row("1", 1, 1, 1)])
    with pytest.raises(ValueError, match="batch_size, wanted"):
        scaled_lr(0.1, 0, 4)
    with pytest.raises(ValueError, match="small, large"):
        gradient_noise_scale(system, [], 4, 64)
    with pytest.raises(ValueError, match="directions, points, batches"):
        losses_along(system, data, [], 1.0, 5)
