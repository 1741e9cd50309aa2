r"""GridWorld: a Markov decision process small enough to write down.

    states        cells of a size x size grid, counted row by row; the last one is the goal and ends the episode
    actions       0 up, 1 right, 2 down, 3 left; with probability `slip` the wind chooses one of the four instead
    T(s'|s, a)    (1 - slip) [s' = s moved by a] + slip / 4 sum_b [s' = s moved by b]; a wall leaves s as it is
    R(s, a, s')   1 where s' is the goal, else 0: sparse and delayed

`transitions` is T as a table; the environment is gymnasium's, observing the cell as a one-hot vector.

Sutton and Barto: Reinforcement Learning, 1998. Bellman: A Markovian Decision Process, 1957.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

MOVES = torch.tensor([[-1, 0], [0, 1], [1, 0], [0, -1]])


def transitions(size: int, slip: float) -> Float[Tensor, "states 4 states"]:
    """T(s'|s, a); the goal keeps whoever is there."""
    if size < 2:
        raise ValueError(f"size: expected at least 2 cells, got {size}")
    if not 0 <= slip <= 1:
        raise ValueError(f"slip: expected a probability, got {slip}")
    states = torch.arange(size * size)
    place = torch.stack([states // size, states % size], -1)
    moved = (place[:, None] + MOVES).clamp(0, size - 1)
    sure = torch.nn.functional.one_hot(moved[..., 0] * size + moved[..., 1], size * size).double()
    table = (1 - slip) * sure + slip * sure.mean(1, keepdim=True)
    table[-1] = torch.nn.functional.one_hot(states[-1], size * size).double()
    return table


class GridWorld(gymnasium.Env):
    """The process as an environment; an episode starts in the first cell."""

    metadata = {"render_modes": []}

    def __init__(self, size: int = 4, slip: float = 0.2):
        self.table = transitions(size, slip).numpy()
        self.states = size * size
        self.observation_space = gymnasium.spaces.Box(0, 1, (self.states,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(4)
        self.state = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Back to the first cell."""
        super().reset(seed=seed)
        self.state = 0
        return self._observation(), {}

    def step(self, action: int | np.integer) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Draw the next cell from T."""
        self.state = int(self.np_random.choice(self.states, p=self.table[self.state, action]))
        goal = self.state == self.states - 1
        return self._observation(), float(goal), goal, False, {}

    def _observation(self) -> np.ndarray:
        return np.eye(self.states, dtype=np.float32)[self.state]
