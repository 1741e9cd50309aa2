"""Worked numbers of learning: squashing, losses, optimisers as the Learner makes them, clipping."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import log_loss
from torch.nn import functional as F

from oculi.data.datasets import Splits
from oculi.input_contract import InputContract
from oculi.learn.learner import Training, fit, optimizer_for
from oculi.predictions import Classes
from oculi.system import Phase, System
from oculi.types import Batch, Losses, Sample


def close(a, b, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=tolerance, rtol=0)


def test_sigmoid():
    z = torch.tensor([0.0, 1.0, -1.0, 40.0, -40.0, 1000.0, -1000.0])
    expected = torch.tensor([0.5, 0.731059, 0.268941, 1.0, 0.0, 1.0, 0.0])
    close(torch.sigmoid(z), expected)
    z = torch.linspace(-8, 8, 101, dtype=torch.float64)
    close(torch.sigmoid(z), 1 / (1 + torch.exp(-z)), 1e-12)
    z.requires_grad_()
    s = torch.sigmoid(z)
    close(torch.autograd.grad(s.sum(), z)[0], s * (1 - s), 1e-12)  # flat at both ends


def test_binary_cross_entropy():
    close(F.binary_cross_entropy(torch.tensor([0.5]), torch.tensor([1.0])), math.log(2))
    p, y = torch.tensor([0.9, 0.2, 0.6, 0.35]), torch.tensor([1.0, 0, 0, 1])
    by_hand = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    close(F.binary_cross_entropy(p, y), by_hand)
    close(F.binary_cross_entropy_with_logits(p.logit(), y), by_hand)
    close(float(by_hand), log_loss(y.numpy(), p.numpy()))
    far = torch.tensor([200.0])  # from probabilities it would be infinite
    close(F.binary_cross_entropy_with_logits(far, torch.tensor([0.0])), 200.0)


def test_mean_squared_error():
    prediction, target = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 7.0])
    close(F.mse_loss(prediction, target), (0 + 4 + 16) / 3)
    prediction.requires_grad_()
    close(torch.autograd.grad(F.mse_loss(prediction, target), prediction)[0], torch.tensor([0, 4 / 3, -8 / 3]))


def gradients(steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(steps)]


def trajectory(training: Training, steps: int = 100) -> torch.Tensor:
    """Where the Learner's optimiser takes five weights along a hundred given gradients."""
    w = torch.nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
    optimizer = optimizer_for(Phase("all", [w], lambda batch: {}), training)
    path = []
    for g in gradients(steps):
        w.grad = g
        optimizer.step()
        path.append(w.detach().clone())
    return torch.stack(path)


def test_adam_by_hand():
    lr, b1, b2, eps = 0.01, 0.8, 0.99, 1e-8
    w = torch.linspace(-1, 1, 5, dtype=torch.float64)
    m, v, path = torch.zeros_like(w), torch.zeros_like(w), []
    for t, g in enumerate(gradients(100), 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        w = w - lr * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps)
        path.append(w)
    found = trajectory(Training(optimizer="adam", lr=lr, betas=[b1, b2]))
    close(found, torch.stack(path), 1e-12)
    start = torch.linspace(-1, 1, 5, dtype=torch.float64)
    close(found[0], start - lr * gradients(1)[0].sign(), 1e-8)  # the first step is lr sign(g)


def test_sgd_with_momentum_by_hand():
    w, v, path = torch.linspace(-1, 1, 5, dtype=torch.float64), 0.0, []
    for g in gradients(100):
        v = 0.9 * v + g
        w = w - 0.01 * v
        path.append(w)
    close(trajectory(Training(optimizer="sgd", lr=0.01, momentum=0.9)), torch.stack(path), 1e-12)


class Slope(System):
    """A loss with the gradient (3, 4) for one vector and (0, 12) for the other: together of length 13."""

    answer = Classes

    def __init__(self):
        super().__init__(InputContract(1, 1, 1))
        self.a, self.b = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))

    def loss(self, batch: Batch) -> Losses:
        return {"slope": (self.a * torch.tensor([3.0, 4.0])).sum() + (self.b * torch.tensor([0.0, 12.0])).sum()}


@pytest.mark.parametrize(("clip", "factor"), [(0.0, 1.0), (1.3, 0.1), (6.5, 0.5), (13.1, 1.0), (100.0, 1.0)])
def test_gradients_are_clipped_together(clip, factor):
    """g min(1, c / |g|) as if they were one vector: the direction stays."""
    data = [Sample(image=torch.zeros(1, 1, 1), label=0)]
    system = Slope()
    options = Training(steps=1, batch_size=1, optimizer="sgd", lr=1.0, momentum=0.0, clip=clip)
    fit(system, options, Splits(data, data, data), progress=False)
    close(system.a.detach(), -factor * torch.tensor([3.0, 4.0]), 1e-5)
    close(system.b.detach(), -factor * torch.tensor([0.0, 12.0]), 1e-5)


def test_clipping_is_torchs():
    by_hand = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))]
    for p, g in zip(by_hand, ([3.0, 4.0], [0.0, 12.0]), strict=True):
        p.grad = torch.tensor(g)
    norm = torch.nn.utils.clip_grad_norm_(by_hand, 1.3)
    close(norm, 13.0)
    close(by_hand[0].grad, torch.tensor([0.3, 0.4]), 1e-5)
