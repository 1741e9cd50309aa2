"""WGAN: its optimiser by hand, its clipping, and a critic that measures a distance."""

from __future__ import annotations

import pytest
import torch

from oculi.data.datasets import Splits
from oculi.generate.wgan import WGAN
from oculi.learn.learner import Training, fit, optimizer_for
from oculi.system import Phase
from oculi.types import Batch, Sample


@pytest.mark.parametrize("maximize", [False, True])
def test_rmsprop_by_hand_for_a_hundred_steps(maximize: bool) -> None:
    target = torch.tensor([3.0, -2.0])
    w = torch.nn.Parameter(torch.zeros(2))
    optimizer = optimizer_for(Phase("all", [w], lambda batch: {}), Training(optimizer="rmsprop", lr=0.02))
    optimizer.param_groups[0]["maximize"] = maximize
    ours, mean = torch.zeros(2), torch.zeros(2)
    sign = -1 if maximize else 1
    for _ in range(100):
        loss = sign * (w - target).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        gradient = 2 * (ours - target)
        mean = 0.99 * mean + 0.01 * gradient.square()
        ours = ours - 0.02 * gradient / (mean.sqrt() + 1e-8)
    torch.testing.assert_close(w.detach(), ours, atol=1e-5, rtol=0)


def test_only_the_critic_is_clipped_and_each_phase_moves_its_own_weights() -> None:
    torch.manual_seed(0)
    system = WGAN(image_size=8, latent=4, width=16, clip=0.05, critic_steps=2)
    before = {name: value.clone() for name, value in system.named_parameters()}
    samples = [Sample(image=torch.rand(1, 8, 8)) for _ in range(16)]
    fit(system, Training(steps=2, batch_size=8, optimizer="rmsprop", lr=1e-3), Splits(samples, samples, samples),
        progress=False)  # fmt: skip
    assert max(float(p.detach().abs().max()) for p in system.critic.parameters()) <= 0.05 + 1e-7
    assert max(float(p.detach().abs().max()) for p in system.generator.parameters()) > 0.05
    critic = any(not torch.equal(before[f"critic.{n}"], p) for n, p in system.critic.named_parameters())
    assert critic  # two critic steps come first, the generator's turn is the third
    for name, value in system.generator.named_parameters():
        assert torch.equal(before[f"generator.{name}"], value)


def test_the_critics_estimate_follows_the_exact_distance() -> None:
    """Constant pictures of brightness a against pictures of brightness b: W1 is proportional to |a - b|."""
    gaps, estimates = [0.1, 0.3, 0.5, 0.7], []
    for gap in gaps:
        torch.manual_seed(0)
        system = WGAN(image_size=8, latent=4, width=16, clip=0.1)
        real = Batch(image=torch.full((8, 1, 8, 8), 0.1) + 0.02 * torch.randn(8, 1, 8, 8))
        fake = real.pictures + gap
        system._fake = lambda n, generator=None, fake=fake: fake  # type: ignore[method-assign]
        optimizer = torch.optim.RMSprop(system.critic.parameters(), lr=1e-3)
        for step in range(100):
            loss = system.critic_loss(real)["critic"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            system.on_step_end("critic", step)
        estimates.append(-float(system.critic_loss(real)["critic"].detach()))
    correlation = torch.corrcoef(torch.tensor([gaps, estimates]))[0, 1]
    assert float(correlation) >= 0.9
    assert estimates == sorted(estimates)
