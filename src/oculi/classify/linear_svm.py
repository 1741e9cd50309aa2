r"""Linear support vector machine: the hyperplane with the widest margin between two kinds of features.

    min  1/2 ||w||^2 + sum_i C_i max(0, 1 - y_i w.x_i)          y_i = +1 or -1, x with a 1 behind it for the bias

The dual,  max  sum_i a_i - 1/2 ||sum_i a_i y_i x_i||^2,  0 <= a_i <= C_i,  is solved by accelerated projected gradient
steps with restarts, all classes side by side (one against the rest); w = sum_i a_i y_i x_i. The difference of the two
objectives bounds how far w is from the best one: it stops when that is at most `tolerance` of the objective.

`normal` of a two-class machine is the direction across its margin: R-CNN scores regions by it, and TCAV's concepts are
such directions. As in LIBLINEAR the bias is a weight like the others, on a feature of `bias`.

Cortes, Vapnik: Support-Vector Networks, 1995. Nesterov, 1983; O'Donoghue, Candes: Adaptive Restart, 2012, arXiv:1204.3982.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

POWER_STEPS, CHECK_EVERY = 30, 20


class LinearSVM:
    """One or several linear SVMs on the same features.

    cost: C, of a unit of hinge loss; bias: the constant feature, 0 for none; tolerance: duality gap over the objective.
    After `fit`: normal `features x machines`, offset `machines`.
    """

    def __init__(self, cost: float = 1.0, bias: float = 1.0, tolerance: float = 1e-4, most_steps: int = 20_000):
        if cost <= 0 or tolerance <= 0:
            raise ValueError(f"cost, tolerance: expected above 0, got {cost} and {tolerance}")
        self.cost, self.bias, self.tolerance, self.most_steps = cost, bias, tolerance, most_steps
        self.normal, self.offset, self.steps = torch.zeros(0, 0), torch.zeros(0), 0

    def fit(
        self,
        features: Float[Tensor, "n features"],
        positive: Bool[Tensor, "n machines"],
        used: Bool[Tensor, "n machines"] | None = None,
    ) -> LinearSVM:
        """Separate `positive` from the rest, for each machine among those examples that are `used` for it (all)."""
        used = torch.ones_like(positive) if used is None else used
        for k in range(positive.shape[1]):
            kinds = positive[used[:, k], k]
            if not bool(kinds.any()) or bool(kinds.all()):
                raise ValueError(f"positive: expected examples of both kinds for machine {k}, got one kind")
        x = self._extended(features)
        sign = torch.where(positive, 1.0, -1.0).to(x)
        most = self.cost * used.to(x)
        weight = self._solve(x, sign, most)
        self.normal, self.offset = weight[: features.shape[1]].to(features), self._offset(weight).to(features)
        return self

    def decide(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n machines"]:
        """Signed distance from each hyperplane, times the length of its normal; above 0 is the positive side."""
        return features @ self.normal + self.offset

    def objective(
        self, features: Float[Tensor, "n features"], positive: Bool[Tensor, "n machines"]
    ) -> Float[Tensor, " machines"]:
        """What is minimised, per machine, with every example used."""
        sign = torch.where(positive, 1.0, -1.0).to(features)
        last = self.offset / self.bias if self.bias else torch.zeros_like(self.offset)
        hinge = (1 - sign * self.decide(features)).clamp_min(0).sum(0)
        return 0.5 * ((self.normal**2).sum(0) + last**2) + self.cost * hinge

    def _extended(self, features: Tensor) -> Tensor:
        x = features.double()
        return torch.cat([x, x.new_full((len(x), 1), self.bias)], 1) if self.bias else x

    def _offset(self, weight: Tensor) -> Tensor:
        return weight[-1] * self.bias if self.bias else torch.zeros_like(weight[0])

    def _solve(self, x: Tensor, sign: Tensor, most: Tensor) -> Float[Tensor, "features machines"]:
        """The weights, by FISTA on the dual with the momentum dropped whenever it points back."""
        curvature = _largest_eigenvalue(x)
        dual = torch.zeros_like(most)
        ahead, momentum = dual, torch.ones(most.shape[1], dtype=x.dtype, device=x.device)
        for step in range(1, self.most_steps + 1):
            self.steps = step
            slope = 1 - sign * (x @ (x.T @ (sign * ahead)))
            stepped = torch.minimum((ahead + slope / curvature).clamp_min(0), most)
            back = ((ahead - stepped) * (stepped - dual)).sum(0) > 0
            grown = torch.where(back, 1.0, (1 + (1 + 4 * momentum**2).sqrt()) / 2)
            push = torch.where(back, 0.0, (momentum - 1) / grown)
            ahead, dual, momentum = stepped + push * (stepped - dual), stepped, grown
            if step % CHECK_EVERY == 0 and bool((_gap(x, sign, most, dual) <= self.tolerance).all()):
                break
        return x.T @ (sign * dual)


def _gap(x: Tensor, sign: Tensor, most: Tensor, dual: Tensor) -> Float[Tensor, " machines"]:
    """How far the primal objective can be above the least one, over itself."""
    weight = x.T @ (sign * dual)
    half = 0.5 * (weight**2).sum(0)
    primal = half + (most * (1 - sign * (x @ weight)).clamp_min(0)).sum(0)
    return (primal - (dual.sum(0) - half)) / primal.clamp_min(1e-12)


def _largest_eigenvalue(x: Tensor) -> Tensor:
    """Of x^T x, from above."""
    gram = x.T @ x if x.shape[1] <= x.shape[0] else x @ x.T
    vector = torch.ones(len(gram), dtype=x.dtype, device=x.device)
    for _ in range(POWER_STEPS):
        vector = gram @ vector
        vector = vector / vector.norm().clamp_min(1e-12)
    return (vector @ gram @ vector).clamp_min(1e-12) * 1.1
