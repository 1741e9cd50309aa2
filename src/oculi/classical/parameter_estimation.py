r"""Parameters from data: those that make the data most probable, or those most probable given data and prior.

    maximum likelihood     argmax_q sum_i log p(x_i | q)
    maximum a posteriori   argmax_q sum_i log p(x_i | q) + log p(q)          the prior tells where data are few

Closed forms where there are any; `maximise` for any family whose log density torch can differentiate.

    normal        mean = average, variance = mean squared deviation (over n: biased)
    bernoulli     p = k / n                                     with a Beta(a, b) prior: (k + a - 1) / (n + a + b - 2)
    categorical   p_c = n_c / n                                 with a Dirichlet(a) prior: (n_c + a_c - 1) / (n + sum a - C)
    exponential   rate = 1 / average;  poisson rate = average
    normal mean   of known variance s^2, prior N(m, t^2):       (m / t^2 + sum x / s^2) / (1 / t^2 + n / s^2)

A flat prior (Beta(1, 1), t infinite) gives the maximum likelihood. Where the mode lies on the border of the parameters
(a < 1 and the like) there is no such answer: ValueError.

Fisher: On the mathematical foundations of theoretical statistics, 1922. Laplace 1774.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor


def normal_mle(x: Float[Tensor, "n *d"]) -> tuple[Float[Tensor, "*d"], Float[Tensor, "*d"]]:
    """Mean and biased variance.

    >>> normal_mle(torch.tensor([1.0, 3.0]))
    (tensor(2.), tensor(1.))
    """
    _finite(x)
    return x.mean(0), x.var(0, unbiased=False)


def bernoulli_mle(x: Num[Tensor, " n"]) -> float:
    """The share of ones."""
    return bernoulli_map(x, 1.0, 1.0)


def categorical_mle(labels: Int[Tensor, " n"], classes: int) -> Float[Tensor, " classes"]:
    """The share of each class."""
    return categorical_map(labels, torch.ones(classes))


def exponential_mle(x: Float[Tensor, "n *d"]) -> Float[Tensor, "*d"]:
    """The rate."""
    _finite(x)
    if not bool((x >= 0).all()) or not bool((x.mean(0) > 0).all()):
        raise ValueError("x: expected numbers of at least 0, not all 0")
    return 1 / x.mean(0)


def poisson_mle(counts: Num[Tensor, "n *d"]) -> Float[Tensor, "*d"]:
    """The rate."""
    _finite(counts)
    if bool((counts < 0).any()):
        raise ValueError("counts: expected numbers of at least 0")
    return counts.double().mean(0)


def bernoulli_map(x: Num[Tensor, " n"], a: float = 2.0, b: float = 2.0) -> float:
    """The most probable chance of a one under a Beta(a, b) prior.

    >>> round(bernoulli_map(torch.tensor([1, 1, 1, 1, 1, 1, 1, 0, 0, 0])), 4)
    0.6667
    """
    _finite(x)
    if not bool(((x == 0) | (x == 1)).all()):
        raise ValueError("x: expected zeros and ones")
    ones, n = float(x.sum()), len(x)
    above, whole = ones + a - 1, n + a + b - 2
    if not (a > 0 and b > 0 and above >= 0 and n - ones + b - 1 >= 0 and whole > 0):
        raise ValueError(f"a, b: expected a prior with a mode given the data (1 or more each), got {a} and {b}")
    return above / whole


def categorical_map(labels: Int[Tensor, " n"], prior: Float[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    """The most probable shares under a Dirichlet prior."""
    if not len(labels) or int(labels.min()) < 0 or int(labels.max()) >= len(prior):
        raise ValueError(f"labels: expected numbers 0 to {len(prior) - 1}, at least one")
    above = torch.bincount(labels, minlength=len(prior)) + prior.double() - 1
    if bool((above < 0).any()) or not bool((prior > 0).all()):
        raise ValueError("prior: expected one with a mode given the data (1 or more each)")
    return above / above.sum()


def normal_mean_map(
    x: Float[Tensor, "n *d"], variance: float, prior_mean: float = 0.0, prior_variance: float = 1.0
) -> Float[Tensor, "*d"]:
    """The most probable mean of normal data of known variance under a normal prior."""
    _finite(x)
    if not (variance > 0 and prior_variance > 0):
        raise ValueError(f"variance, prior_variance: expected above 0, got {variance} and {prior_variance}")
    return (prior_mean / prior_variance + x.sum(0) / variance) / (1 / prior_variance + len(x) / variance)


def maximise(
    log_density: Callable[[Tensor, Tensor], Tensor],
    x: Float[Tensor, "n *d"],
    start: Float[Tensor, " p"],
    log_prior: Callable[[Tensor], Tensor] | None = None,
    steps: int = 100,
) -> Float[Tensor, " p"]:
    """Parameters that maximise sum log_density(x, q) [+ log_prior(q)], by L-BFGS from `start`, float64.

    log_density: (x, q) to one number per point. Raises ValueError where no finite maximum is found.
    """
    _finite(x)
    q = start.detach().double().clone().requires_grad_()
    data = x.double()
    search = torch.optim.LBFGS(
        [q], max_iter=steps, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def cost() -> Tensor:
        search.zero_grad()
        value = -log_density(data, q).sum()
        if log_prior is not None:
            value = value - log_prior(q)
        value = value / len(data)
        value.backward()
        return value

    search.step(cost)
    last = cost()
    slope = q.grad
    if not bool(torch.isfinite(last)) or slope is None or not float(slope.abs().max()) < 1e-4:
        raise ValueError("start: no finite maximum was found from here")
    return q.detach()


def _finite(x: Tensor) -> None:
    if not len(x) or not bool(torch.isfinite(x.double()).all()):
        raise ValueError(f"x: expected finite numbers, at least one, got shape {tuple(x.shape)} or NaN")
