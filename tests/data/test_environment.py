"""Environments stepped together."""

from __future__ import annotations

import pytest
import torch

from oculi.data.environment import Environments, load


def test_episodes_end_where_they_reached_and_start_anew():
    environments = Environments("CartPole-v1", 3, 0)
    for _ in range(60):
        step = environments.step(torch.ones(3, dtype=torch.int64))
        running = ~(step.terminated | step.truncated)
        assert torch.equal(step.reached[running], environments.observation[running])
        if not bool(running.all()):
            break
    assert bool((step.reached[step.terminated][:, 2].abs() > 0.2).all())
    assert bool((environments.observation[step.terminated].abs() <= 0.05).all())
    assert step.reward.tolist() == [1, 1, 1]


def test_reset_by_seed():
    environments = load(count=2, seed=5).environment
    first = environments.observation
    environments.step(torch.tensor([0, 1]))
    assert torch.equal(environments.reset(5), first)
    assert not torch.equal(environments.reset(6), first)


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="count: expected"):
        load(count=0)
    with pytest.raises(ValueError, match="id: NoSuch-v0"):
        load(id="NoSuch-v0")
    with pytest.raises(ValueError, match="id: expected discrete actions"):
        load(id="Pendulum-v1")


def test_a_restored_environment_goes_on_as_the_original():
    one, other = load(count=3, seed=2).environment, load(count=3, seed=9).environment
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):  # some episodes end on the way
        one.step(torch.randint(0, 2, (3,), generator=generator))
    other.load_state_dict(one.state_dict())
    for _ in range(40):
        action = torch.randint(0, 2, (3,), generator=generator)
        a, b = one.step(action), other.step(action)
        assert torch.equal(a.reached, b.reached)
        assert torch.equal(one.observation, other.observation)
