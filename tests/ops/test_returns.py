"""Returns and advantages: properties and bad input."""

from __future__ import annotations

import pytest
import torch

from oculi.ops.returns import discounted_return, generalized_advantage_estimation


def experience(seed: int, steps: int = 12, count: int = 3):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(3, steps, count, generator=generator)
    return numbers, torch.rand(steps, count, generator=generator) < 0.2


def test_the_sum_equals_the_backward_recursion():
    reward = experience(0)[0][0]
    following = torch.zeros(3)
    for row in reward.flip(0):
        following = row + 0.9 * following
    torch.testing.assert_close(discounted_return(reward, 0.9), following)


def test_lambda_zero_is_the_temporal_difference_error():
    (reward, value, following), terminated = experience(1)
    advantage = generalized_advantage_estimation(
        reward, value, following, terminated, torch.zeros_like(terminated), 0.9, 0.0
    )
    torch.testing.assert_close(advantage, reward + 0.9 * following * ~terminated - value)


def test_lambda_one_is_the_return_minus_the_value():
    (reward, value, _), none = experience(2)[0], torch.zeros(12, 3, dtype=torch.bool)
    terminated = none.clone()
    terminated[-1] = True
    following = torch.cat([value[1:], torch.zeros(1, 3)])
    advantage = generalized_advantage_estimation(reward, value, following, terminated, none, 0.9, 1.0)
    torch.testing.assert_close(advantage[0], discounted_return(reward, 0.9) - value[0])


def test_a_truncated_episode_keeps_the_value_of_where_it_was_cut():
    reward, value, following = torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.5]), torch.tensor([2.0, 3.0])
    no, cut = torch.tensor([False, False]), torch.tensor([True, False])
    advantage = generalized_advantage_estimation(reward, value, following, no, cut, 0.9, 0.8)
    torch.testing.assert_close(advantage, reward + 0.9 * following - value)


@pytest.mark.unchecked
def test_bad_input_is_named():
    row, no = torch.zeros(2), torch.zeros(2, dtype=torch.bool)
    with pytest.raises(ValueError, match="gamma: expected"):
        discounted_return(row, 1.1)
    with pytest.raises(ValueError, match="lam: expected"):
        generalized_advantage_estimation(row, row, row, no, no, 0.9, 2)
    with pytest.raises(ValueError, match="next_value: expected the shape"):
        generalized_advantage_estimation(row, row, torch.zeros(3), no, no, 0.9, 0.8)
