r"""Environments to act in: several copies of a gymnasium environment, stepped together.

A Markov decision process has states, actions a_t, a transition T(s_{t+1} | s_t, a_t) and a reward R(s_t, a_t, s_{t+1});
to the agent it is a black box that answers an action with the next observation and a reward.

An episode that ends is reset within the same step: `Step.reached` is the state that the action led to, `observation` of
the environments is where the next action starts.

What an environment keeps inside is its own affair; what it did is fixed by the seed and the actions since. These are its
state here (four bytes an action), and to restore it is to act again, which any deterministic environment allows.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oculi.data.datasets import Splits


@dataclass
class Step:
    """What the environments answered to one action each."""

    reached: Float[Tensor, "count observations"]
    reward: Float[Tensor, " count"]
    terminated: Bool[Tensor, " count"]
    truncated: Bool[Tensor, " count"]


class Environments:
    """`count` copies of the gymnasium environment `id`, one thread, reset by `seed`, `seed + 1`, ..."""

    def __init__(self, id: str, count: int = 8, seed: int = 0):
        import gymnasium
        from gymnasium.vector import AutoresetMode

        if count < 1:
            raise ValueError(f"count: expected at least 1 environment, got {count}")
        try:
            self.vector = gymnasium.make_vec(
                id, count, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
            )
        except gymnasium.error.Error as error:
            raise ValueError(f"id: {id} is no environment that gymnasium can make ({error})") from None
        if not isinstance(self.vector.single_action_space, gymnasium.spaces.Discrete):
            raise ValueError(f"id: expected discrete actions, got {self.vector.single_action_space} in {id}")
        if not isinstance(self.vector.single_observation_space, gymnasium.spaces.Box):
            raise ValueError(
                f"id: expected vectors as observations, got {self.vector.single_observation_space} in {id}"
            )
        self.id, self.count = id, count
        self.actions = int(self.vector.single_action_space.n)
        self.observations = int(np.prod(self.vector.single_observation_space.shape))
        self.reset(seed)

    def reset(self, seed: int) -> Float[Tensor, "count observations"]:
        """Start all episodes anew; the same seed gives the same episodes for the same actions."""
        self.observation = self._tensor(self.vector.reset(seed=seed)[0])
        self.seed, self.taken = seed, array("i")
        return self.observation

    def state_dict(self) -> dict[str, Any]:
        """The seed and the actions since."""
        return {"seed": self.seed, "taken": torch.tensor(self.taken, dtype=torch.int32)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Be where the environments of `state` were, by acting as they did."""
        self.reset(state["seed"])
        for action in state["taken"].long().reshape(-1, self.count):
            self.step(action)

    def step(self, action: Int[Tensor, " count"]) -> Step:
        """Act in each environment; those whose episode ends begin another."""
        self.taken.extend(action.tolist())
        after, reward, terminated, truncated, info = self.vector.step(action.cpu().numpy())
        self.observation = self._tensor(after)
        ended = terminated | truncated
        reached = self.observation
        if ended.any():
            reached = reached.clone()
            reached[torch.from_numpy(ended)] = self._tensor(np.stack(list(info["final_obs"][ended])))
        flags = torch.from_numpy(terminated.copy()), torch.from_numpy(truncated.copy())
        return Step(reached, torch.as_tensor(reward, dtype=torch.float32), *flags)

    def another(self, count: int, seed: int) -> Environments:
        """Fresh copies of the same environment, for evaluation."""
        return Environments(self.id, count, seed)

    def close(self) -> None:
        """Free what the environments hold."""
        self.vector.close()

    @staticmethod
    def _tensor(observation: Any) -> Float[Tensor, "count observations"]:
        return torch.from_numpy(np.array(observation, dtype=np.float32)).flatten(1)


def load(id: str = "CartPole-v1", count: int = 8, seed: int = 0) -> Splits:
    """`count` environments to act in; there are no samples."""
    return Splits(train=[], validation=[], test=[], environment=Environments(id, count, seed))
