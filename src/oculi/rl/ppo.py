r"""PPO: improve a policy by gradient, several times on the same experience, without leaving its neighbourhood.

One iteration: N actors run T steps with the policy of the moment; advantages A are estimated by GAE; then K epochs of
minibatches maximise

    r = pi(a|s) / pi_old(a|s)
    L = E[ min(r A, clip(r, 1 - eps, 1 + eps) A) ] - c_v E[ (V(s) - R)^2 ] + c_e E[ entropy of pi(.|s) ],   R = A + V

and the experience is thrown away (on-policy: the policy that makes the data is the one that is improved). The minimum
is pessimistic: once the ratio has left the interval in the direction that helps, the gradient is zero.

    observation     batch x observations
    policy, value   two separate MLPs with tanh: hidden, hidden, then actions or 1

Differs from the paper as stable-baselines3 does: advantages have zero mean and unit variance in each minibatch, and the
weights start orthogonal. Discrete actions only; no early stopping by KL.

Schulman, Wolski, Dhariwal, Radford, Klimov: Proximal Policy Optimization Algorithms, 2017, arXiv:1707.06347.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.data.environment import Environments
from oculi.input_contract import InputContract
from oculi.ops.returns import generalized_advantage_estimation
from oculi.predictions import Actions
from oculi.system import System
from oculi.types import Batch, Losses


def clipped_objective(ratio: Float[Tensor, " n"], advantage: Float[Tensor, " n"], clip: float) -> Float[Tensor, " n"]:
    """min(r A, clip(r, 1 - eps, 1 + eps) A), to be maximised."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def mlp(inputs: int, hidden: int, outputs: int, gain: float) -> nn.Sequential:
    """Two hidden layers with tanh; orthogonal weights, `gain` for the last layer."""
    layers = [nn.Linear(inputs, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, outputs)]
    for layer, factor in zip(layers, (math.sqrt(2), math.sqrt(2), gain), strict=True):
        nn.init.orthogonal_(layer.weight, factor)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


class PPO(System):
    """PPO with discrete actions.

    observations, actions: sizes of the environment's spaces. steps: T, how long each actor runs per iteration.
    epochs, minibatches: K, and into how many parts an epoch is cut. gamma, lam: discount and GAE's smoothing.
    clip: eps. value_weight, entropy_weight: c_v, c_e.
    """

    answer = Actions

    def __init__(
        self,
        observations: int = 4,
        actions: int = 2,
        hidden: int = 64,
        steps: int = 128,
        epochs: int = 10,
        minibatches: int = 4,
        gamma: float = 0.99,
        lam: float = 0.95,
        clip: float = 0.2,
        value_weight: float = 0.5,
        entropy_weight: float = 0.0,
    ):
        # it sees the environment's numbers, not pictures; one grey pixel is the smallest contract there is
        super().__init__(InputContract(1, 1, 1))
        for name, given in (("steps", steps), ("epochs", epochs), ("minibatches", minibatches)):
            if given < 1:
                raise ValueError(f"{name}: expected at least 1, got {given}")
        if clip <= 0:
            raise ValueError(f"clip: expected a positive number, got {clip}")
        self.observations, self.actions = observations, actions
        self.steps, self.epochs, self.minibatches = steps, epochs, minibatches
        self.gamma, self.lam, self.clip = gamma, lam, clip
        self.value_weight, self.entropy_weight = value_weight, entropy_weight
        self.policy = mlp(observations, hidden, actions, 0.01)
        self.value = mlp(observations, hidden, 1, 1.0)

    def forward(self, observation: Float[Tensor, "n observations"]) -> tuple[Tensor, Tensor]:
        """Log-probabilities `n x actions` and values `n`."""
        return self.policy(observation).log_softmax(-1), self.value(observation)[..., 0]

    def loss(self, batch: Batch) -> Losses:
        seen = self._transitions(batch)
        log_probabilities, value = self(seen["observation"])
        chosen = log_probabilities.gather(1, seen["action"][:, None])[:, 0]
        advantage = seen["advantage"]
        if len(advantage) > 1:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        ratio = (chosen - seen["log_probability"]).exp()
        entropy = -(log_probabilities.exp() * log_probabilities).sum(1).mean()
        return {
            "policy": -clipped_objective(ratio, advantage, self.clip).mean(),
            "value": self.value_weight * F.mse_loss(value, seen["target_return"]),
            "entropy": -self.entropy_weight * entropy,
        }

    def predict(self, batch: Batch) -> list[Actions]:
        log_probabilities, value = self(self._transitions(batch)["observation"])
        return [Actions(p, float(v)) for p, v in zip(log_probabilities.exp(), value, strict=True)]

    def collect(self, environment: Environments, generator: torch.Generator) -> Iterator[Batch]:
        """Run the actors for `steps` steps, then hand out every epoch's minibatches; nothing is kept afterwards."""
        self._check_spaces(environment)
        buffer = self.rollout(environment, generator)
        size = len(buffer["action"])
        parts = min(self.minibatches, size)
        for _ in range(self.epochs):
            for chosen in torch.randperm(size, generator=generator).tensor_split(parts):
                yield Batch(transitions={name: values[chosen] for name, values in buffer.items()})

    @torch.no_grad()
    def rollout(self, environment: Environments, generator: torch.Generator) -> dict[str, Tensor]:
        """`steps` times `count` transitions in one row, on the CPU, with advantages and returns."""
        rows: list[tuple[Tensor, ...]] = []
        for _ in range(self.steps):
            observation = environment.observation
            log_probabilities, value = (x.cpu() for x in self(observation.to(self.device)))
            action = torch.multinomial(log_probabilities.exp(), 1, generator=generator)
            step = environment.step(action[:, 0])
            log_probability = log_probabilities.gather(1, action)[:, 0]
            rows.append(
                (observation, action[:, 0], log_probability, value,
                 step.reached, step.reward, step.terminated, step.truncated)
            )  # fmt: skip
        observation, action, log_probability, value, reached, reward, terminated, truncated = map(
            torch.stack, zip(*rows, strict=True)
        )
        next_value = self.value(reached.to(self.device))[..., 0].cpu()
        advantage = generalized_advantage_estimation(
            reward, value, next_value, terminated, truncated, self.gamma, self.lam
        )
        return {
            "observation": observation.flatten(0, 1),
            "action": action.flatten(),
            "log_probability": log_probability.flatten(),
            "advantage": advantage.flatten(),
            "target_return": (advantage + value).flatten(),
        }

    def _transitions(self, batch: Batch) -> dict[str, Tensor]:
        if batch.transitions is None:
            raise ValueError("batch: expected transitions (observation, ...), got none; PPO does not see pictures")
        return batch.transitions

    def _check_spaces(self, environment: Environments) -> None:
        for name in ("observations", "actions"):
            if getattr(self, name) != getattr(environment, name):
                raise ValueError(
                    f"{name}: the environment has {getattr(environment, name)}, the system {getattr(self, name)}"
                )
