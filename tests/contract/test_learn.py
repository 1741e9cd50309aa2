"""Every learning system: finite loss, a gradient for every trainable parameter, equal bits for equal seeds, overfits."""

import pytest
import torch

from contract.tiny import LEARNERS, batch_for, fresh

ids = pytest.mark.parametrize("recipe", LEARNERS, ids=lambda r: r.id)


def total(losses):
    return torch.stack(list(losses.values())).sum()


@ids
def test_loss_is_finite_and_reaches_every_parameter(recipe):
    system = fresh(recipe).train()
    losses = system.loss(batch_for(system, 8))
    assert losses
    assert all(value.ndim == 0 and torch.isfinite(value) for value in losses.values())
    total(losses).backward()
    without = [name for name, p in system.named_parameters() if p.requires_grad and p.grad is None]
    assert not without


@ids
def test_equal_seeds_give_equal_bits(recipe):
    results = []
    for _ in range(2):
        system = fresh(recipe, seed=3).train()
        torch.manual_seed(5)
        results.append(total(system.loss(batch_for(system, 8))).detach())
    assert torch.equal(*results)


@ids
def test_a_few_steps_on_one_batch_lower_the_loss(recipe):
    system = fresh(recipe).train()
    batch = batch_for(system, 8)

    def mean_loss():
        values = []
        for seed in range(6):
            torch.manual_seed(seed)
            values.append(float(total(system.phases()[0].loss(batch)).detach()))
        return sum(values) / len(values)

    before = mean_loss()
    phase = system.phases()[0]
    optimizer = torch.optim.Adam(phase.parameters, lr=3e-3)
    for step in range(40):
        torch.manual_seed(step % 6)
        optimizer.zero_grad()
        total(phase.loss(batch)).backward()
        optimizer.step()
        system.on_step_end(phase.name, step)
    assert mean_loss() < before
