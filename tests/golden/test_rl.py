"""Worked numbers of reinforcement learning."""

from __future__ import annotations

import pytest
import torch

from oculi.ops.returns import discounted_return, generalized_advantage_estimation
from oculi.rl.ppo import clipped_objective


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"), [(1.5, 1, 1.2), (0.5, 1, 0.5), (1.5, -1, -1.5), (0.5, -1, -0.8)]
)
def test_clipped_objective(ratio, advantage, expected):
    value = clipped_objective(torch.tensor([ratio]), torch.tensor([float(advantage)]), 0.2)
    assert float(value) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("advantage", "expected"), [(1.0, 0.0), (-1.0, -1.0)])
def test_the_gradient_vanishes_once_the_helpful_direction_is_clipped(advantage, expected):
    ratio = torch.tensor([1.3], requires_grad=True)
    clipped_objective(ratio, torch.tensor([advantage]), 0.2).sum().backward()
    assert float(ratio.grad) == expected


def test_discounted_return():
    assert float(discounted_return(torch.tensor([1.0, 0.0, 1.0]), 0.9)) == pytest.approx(1.81)


def test_generalized_advantage_estimation():
    advantage = generalized_advantage_estimation(
        torch.tensor([1.0, 0.0, 1.0]),
        torch.tensor([0.5, 0.4, 0.3]),
        torch.tensor([0.4, 0.3, 9.0]),
        torch.tensor([False, False, True]),
        torch.tensor([False, False, False]),
        0.9,
        0.8,
    )
    torch.testing.assert_close(advantage, torch.tensor([1.12928, 0.374, 0.7]))
