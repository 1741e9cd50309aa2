r"""Ways down a function: by the gradient, by its curvature, by the geometry of what is modelled, and to sparse ends.

    gradient          w <- w - lr g
    Newton            w <- w - t (H + d I)^-1 g      t halved until the function falls; one step ends a quadratic
    natural gradient  w <- w - lr F^-1 g             F = E[s s^T], s the score d log p / dw; the same path in any parameters
    proximal (L1)     w <- soft(w - lr g, lr a)      soft(v, b) = sign(v) max(|v| - b, 0), which ends in exact zeros

The gradient's way is slow where the Hessian's largest and smallest eigenvalue lie far apart, for least squares the
squared condition number of the data: hence zero mean and equal variance in every dimension (`conditioning`).

Amari: Natural Gradient Works Efficiently in Learning, 1998, doi:10.1162/089976698300017746.
Tibshirani: Regression Shrinkage and Selection via the Lasso, 1996.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Point = Float[Tensor, " d"]
Function = Callable[[Tensor], Tensor]


def gradient_step(function: Function, w: Point, lr: float) -> Point:
    """One step against the gradient.

    >>> gradient_step(lambda w: (w**2).sum(), torch.tensor([1.0, -2.0]), 0.25).tolist()
    [0.5, -1.0]
    """
    return w - lr * torch.func.grad(function)(w)


def newton_step(function: Function, w: Point, damping: float = 0.0) -> Point:
    """One damped Newton step, halved until the function does not rise. Raises ValueError where no step lowers it."""
    gradient = torch.func.grad(function)(w)
    hessian = torch.func.hessian(function)(w) + damping * torch.eye(len(w), dtype=w.dtype, device=w.device)
    direction = torch.linalg.solve(hessian, gradient)
    if float(gradient @ direction) < 0:
        raise ValueError(f"damping: the curvature is negative here, expected more than {damping}")
    share = 1.0
    while bool(function(w - share * direction) > function(w)) and share > 1e-10:
        share /= 2
    return w - share * direction


def natural_step(w: Point, gradient: Point, scores: Float[Tensor, "n d"], lr: float, damping: float = 0.0) -> Point:
    """One step w - lr F^-1 g with the Fisher information of the n scores."""
    fisher = scores.T @ scores / len(scores)
    fisher = fisher + damping * torch.eye(len(w), dtype=w.dtype, device=w.device)
    return w - lr * torch.linalg.solve(fisher, gradient)


def lasso(x: Float[Tensor, "n d"], y: Float[Tensor, " n"], weight: float, steps: int = 2000) -> Point:
    """The minimum of |y - x w|^2 / (2 n) + weight |w|_1 by proximal steps."""
    if weight < 0 or steps < 1:
        raise ValueError(f"weight, steps: expected 0 or more and 1 or more, got {weight} and {steps}")
    gram, target = x.T @ x / len(x), x.T @ y / len(x)
    lr = 1 / torch.linalg.matrix_norm(gram, 2)
    w = torch.zeros_like(target)
    for _ in range(steps):
        w = torch.nn.functional.softshrink(w - lr * (gram @ w - target), float(lr * weight))
    return w


@dataclass
class Conditioning:
    """Mean and variance of each dimension, and how much farther the data reach one way than another."""

    mean: Tensor
    variance: Tensor
    condition_number: float

    @property
    def well(self) -> bool:
        """Whether every mean is near zero and all variances are near one value."""
        spread = self.variance.sqrt()
        level = bool((spread.max() <= 1.1 * spread.min()).item())
        return level and bool((self.mean.abs() <= 0.1 * spread.mean()).all())


def conditioning(data: Float[Tensor, "n d"]) -> Conditioning:
    """How well data are conditioned for gradient descent.

    >>> _ = torch.manual_seed(0)
    >>> data = torch.randn(1000, 2)
    >>> conditioning(data).well, conditioning(data * torch.tensor([1.0, 10.0]) + 5).well
    (True, False)
    """
    if len(data) < 2:
        raise ValueError(f"data: expected at least two samples, got {len(data)}")
    values = torch.linalg.svdvals(data)
    return Conditioning(data.mean(0), data.var(0), float(values[0] / values[-1].clamp_min(1e-30)))
