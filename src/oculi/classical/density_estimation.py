r"""Density estimation: how probable is what I see, learned from what I saw. Exposes log p(x).

A kernel puts a small Gaussian on every point of the data,

    p(x) = 1/n sum_i N(x; x_i, H)

with H = h^2 I for a bandwidth h given as a number, and H = f^2 S for the rules of Scott, f = n^{-1/(d+4)}, and Silverman,
f = (n (d + 2) / 4)^{-1/(d+4)}, S being the data's covariance. "likelihood" chooses the number h under which every point is
most probable given all others (leave one out). It assumes no family, needs all the data, and in many dimensions more of it
than there is: there a parametric family does better, one Gaussian or a mixture (`GaussianMixtureEM.fit` gives one, and
`log_density` is its method too).

Rosenblatt 1956; Parzen: On Estimation of a Probability Density Function and Mode, 1962. Scott 1992; Silverman 1986.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 1 << 22  # distances held at once


class KernelDensity:
    """A Gaussian kernel on every point. bandwidth: a number in the features' unit, or scott, silverman or likelihood.

    After `fit`: `points`, whitened by `factor`, the Cholesky factor of H.
    """

    def __init__(self, bandwidth: float | str = "scott"):
        if isinstance(bandwidth, str):
            if bandwidth not in ("scott", "silverman", "likelihood"):
                raise ValueError(f"bandwidth: expected a number, scott, silverman or likelihood, got {bandwidth!r}")
        elif not 0 < bandwidth < math.inf:
            raise ValueError(f"bandwidth: expected a number above 0, got {bandwidth}")
        self.bandwidth = bandwidth
        self.points, self.factor = torch.zeros(0, 0), torch.zeros(0, 0)

    def fit(self, features: Float[Tensor, "n d"]) -> KernelDensity:
        """Keep the data and settle H. ValueError for NaN, or data without spread where a rule needs it."""
        if features.ndim != 2 or not len(features) or not bool(torch.isfinite(features).all()):
            raise ValueError(f"features: expected finite numbers n x d, got shape {tuple(features.shape)} or NaN")
        x = features.double()
        n, d = x.shape
        if isinstance(self.bandwidth, str):
            if n < 2:
                raise ValueError(f"features: expected at least 2 points for {self.bandwidth}, got {n}")
            size = n * (d + 2) / 4 if self.bandwidth == "silverman" else n
            covariance = torch.atleast_2d(torch.cov(x.T)) * size ** (-2 / (d + 4))
            if self.bandwidth == "likelihood":
                covariance = _most_likely(x) ** 2 * torch.eye(d, dtype=x.dtype)
            factor, failed = torch.linalg.cholesky_ex(covariance)
            if int(failed):
                raise ValueError("features: they have no spread in some direction; give the bandwidth as a number")
        else:
            factor = self.bandwidth * torch.eye(d, dtype=x.dtype)
        self.factor, self.points = factor, _whitened(x, factor)
        return self

    def log_density(self, features: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
        """log p, differentiable."""
        if not len(self.points):
            raise ValueError("log_density: expected a call of fit before")
        n, d = self.points.shape
        rows = _whitened(features.double(), self.factor).split(max(1, CHUNK // n))
        sums = torch.cat([_log_kernels(r, self.points).logsumexp(1) for r in rows])
        return sums - math.log(n) - 0.5 * d * math.log(2 * math.pi) - self.factor.diagonal().log().sum()

    def sample(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, "count d"]:
        """New points: one of the data each, moved by a draw of the kernel."""
        chosen = torch.randint(len(self.points), (count,), generator=generator)
        noise = torch.randn(count, self.points.shape[1], generator=generator, dtype=torch.float64)
        return (self.points[chosen] + noise) @ self.factor.T


def _whitened(x: Float[Tensor, "n d"], factor: Float[Tensor, "d d"]) -> Float[Tensor, "n d"]:
    return torch.linalg.solve_triangular(factor, x.T, upper=False).T


def _log_kernels(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    return -0.5 * torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()


def _most_likely(x: Float[Tensor, "n d"]) -> float:
    """The bandwidth of the largest leave-one-out likelihood, among 40 from a tenth of Scott's to three times it."""
    n, d = x.shape
    spread = float(x.var(0).mean().sqrt())
    if spread == 0:
        return 0.0
    tried = torch.logspace(-1, math.log10(3), 40, dtype=x.dtype) * n ** (-1 / (d + 4)) * spread
    square = torch.cdist(x, x).square().fill_diagonal_(torch.inf)
    scores = torch.stack([(-0.5 * square / h**2).logsumexp(1).sum() - n * d * h.log() for h in tried])
    return float(tried[int(scores.argmax())])
