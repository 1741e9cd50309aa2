"""GAE and the clipped loss against stable-baselines3."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from oculi.ops.returns import generalized_advantage_estimation


@pytest.mark.parametrize("seed", range(3))
def test_advantages_equal_the_rollout_buffers(seed):
    gymnasium = pytest.importorskip("gymnasium")
    buffers = pytest.importorskip("stable_baselines3.common.buffers")
    steps, count, rng = 16, 4, np.random.default_rng(seed)
    box, discrete = gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Discrete(2)
    buffer = buffers.RolloutBuffer(steps, box, discrete, gae_lambda=0.8, gamma=0.9, n_envs=count)
    reward, value = rng.normal(size=(2, steps, count)).astype(np.float32)
    done = rng.random((steps, count)) < 0.25
    starts = np.concatenate([np.ones((1, count), dtype=bool), done[:-1]])
    last = rng.normal(size=count).astype(np.float32)
    for time in range(steps):
        buffer.add(
            np.zeros((count, 2)),
            np.zeros((count, 1)),
            reward[time],
            starts[time],
            torch.tensor(value[time]),
            torch.zeros(count),
        )
    buffer.compute_returns_and_advantage(torch.tensor(last), done[-1])
    terminated = torch.tensor(done)
    ours = generalized_advantage_estimation(
        torch.tensor(reward),
        torch.tensor(value),
        torch.tensor(np.concatenate([value[1:], last[None]])),
        terminated,
        torch.zeros_like(terminated),
        0.9,
        0.8,
    )
    torch.testing.assert_close(ours, torch.tensor(buffer.advantages), atol=1e-5, rtol=1e-5)
