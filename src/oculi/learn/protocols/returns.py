r"""Returns: what an agent earns per episode when it takes its most probable action."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from oculi.data.datasets import Splits
from oculi.system import System, predict
from oculi.types import Batch

SEEDS = {"train": 0, "validation": 1_000_000, "test": 2_000_000}  # other starts than those of training


def score(system: System, splits: Splits, split: str) -> dict[str, float]:
    """Mean and standard deviation of the undiscounted return over 50 episodes."""
    if splits.environment is None:
        raise ValueError("splits: expected an environment to act in, got data alone")
    environments = splits.environment.another(50, SEEDS[split])
    try:
        earned = returns(system, environments)
    finally:
        environments.close()
    return {"mean_return": float(earned.mean()), "return_std": float(earned.std(correction=0))}


def returns(system: System, environments, steps: int = 10_000) -> Float[Tensor, " count"]:
    """The return of the first episode of each environment. Raises ValueError where one is not over after `steps`."""
    earned = torch.zeros(environments.count)
    running = torch.ones(environments.count, dtype=torch.bool)
    for _ in range(steps):
        answers = predict(system, Batch(transitions={"observation": environments.observation}))
        step = environments.step(torch.tensor([answer.action for answer in answers]))  # type: ignore[attr-defined]
        earned += step.reward * running
        running &= ~(step.terminated | step.truncated)
        if not bool(running.any()):
            return earned
    raise ValueError(f"environments: {int(running.sum())} episodes are not over after {steps} steps")
