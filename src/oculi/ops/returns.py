r"""What a reward is worth: discounted returns and generalised advantages, time first, environments side by side.

    R_t     = r_t + g R_{t+1}
    delta_t = r_t + g (1 - terminated_t) V(s_{t+1}) - V(s_t)
    A_t     = delta_t + g lam (1 - ended_t) A_{t+1}          ended = terminated or truncated

A terminated episode is over, so nothing follows it; a truncated one (time limit) was only cut off, so the value of the
state it was cut at still counts, though no later advantage does. lam = 0 gives delta, lam = 1 the Monte-Carlo return
minus V. The reward r_t follows action a_t (other books call it r_{t+1}).

Schulman, Moritz, Levine, Jordan, Abbeel: High-Dimensional Continuous Control Using Generalized Advantage Estimation,
2015, arXiv:1506.02438. Sutton and Barto: Reinforcement Learning, 1998.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def discounted_return(reward: Float[Tensor, "time *rest"], gamma: float) -> Float[Tensor, "*rest"]:
    """sum_t gamma^t r_t of one episode, from its first step.

    >>> discounted_return(torch.tensor([0.0, 0.0, 1.0]), gamma=0.9)
    tensor(0.8100)
    """
    _check_fraction("gamma", gamma)
    powers = gamma ** torch.arange(reward.shape[0], dtype=reward.dtype, device=reward.device)
    return torch.tensordot(powers, reward, dims=([0], [0]))


def generalized_advantage_estimation(
    reward: Float[Tensor, "time *rest"],
    value: Float[Tensor, "time *rest"],
    next_value: Float[Tensor, "time *rest"],
    terminated: Bool[Tensor, "time *rest"],
    truncated: Bool[Tensor, "time *rest"],
    gamma: float,
    lam: float,
) -> Float[Tensor, "time *rest"]:
    """A_t for every step; `next_value` is V of the state the action led to, before any reset."""
    _check_fraction("gamma", gamma)
    _check_fraction("lam", lam)
    for name, given in (
        ("value", value),
        ("next_value", next_value),
        ("terminated", terminated),
        ("truncated", truncated),
    ):
        if given.shape != reward.shape:
            raise ValueError(f"{name}: expected the shape of reward {tuple(reward.shape)}, got {tuple(given.shape)}")
    delta = reward + gamma * next_value * (~terminated) - value
    carry = gamma * lam * (~(terminated | truncated)).to(reward.dtype)
    advantage, following = torch.empty_like(reward), torch.zeros_like(reward[0])
    for time in reversed(range(reward.shape[0])):  # each step needs the one after it
        following = delta[time] + carry[time] * following
        advantage[time] = following
    return advantage


def _check_fraction(name: str, given: float) -> None:
    if not 0 <= given <= 1:
        raise ValueError(f"{name}: expected a number in [0, 1], got {given}")
