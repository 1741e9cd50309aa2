r"""Mixture of Gaussians, fitted by expectation-maximisation.

    p(x) = sum_k w_k N(x; m_k, S_k)

    E   r_ik = w_k N(x_i; m_k, S_k) / p(x_i)                          whose point is it, as a probability
    M   n_k = sum_i r_ik,  w_k = n_k / n,  m_k = sum_i r_ik x_i / n_k
        S_k = sum_i r_ik (x_i - m_k)(x_i - m_k)^T / n_k + e I         e keeps a component from closing in on one point

No round lowers the log likelihood sum_i log p(x_i) (with e = 0). Which maximum it reaches depends on the start, here the
groups of k-means or given parameters. It stops when the mean log likelihood rises by less than `tolerance`.

    features   n x d;  weights  K;  means  K x d;  covariances  K x d x d

Dempster, Laird, Rubin: Maximum likelihood from incomplete data via the EM algorithm, 1977.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oculi.classical.kmeans import KMeans


@dataclass
class Mixture:
    """Weights, means and covariances, float64. Components are batched through one Cholesky decomposition."""

    weights: Float[Tensor, " k"]
    means: Float[Tensor, "k d"]
    covariances: Float[Tensor, "k d d"]

    def joint(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """log w_k + log N(x_i; m_k, S_k)."""
        factor = torch.linalg.cholesky(self.covariances)
        away = (x.double()[None] - self.means[:, None]).transpose(1, 2)  # k d n
        whitened = torch.linalg.solve_triangular(factor, away, upper=False)
        volume = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = self.weights.log() - volume - 0.5 * self.means.shape[1] * math.log(2 * math.pi)
        return (constant[:, None] - 0.5 * whitened.square().sum(1)).T

    def log_density(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """log p(x), differentiable."""
        return self.joint(x).logsumexp(1)

    def responsibilities(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """The probability that each component made each point."""
        return self.joint(x).softmax(1)

    def sample(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Int[Tensor, " count"]]:
        """New points and the components that made them."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], 1, generator=generator, dtype=torch.float64)
        return self.means[chosen] + (torch.linalg.cholesky(self.covariances)[chosen] @ noise)[..., 0], chosen


class GaussianMixtureEM:
    """EM for `components` Gaussians.

    diagonal: no covariance between columns. ridge: e above. After `fit`: `mixture` and `history`, the mean log likelihood
    before each M step and at the end.
    """

    def __init__(
        self,
        components: int = 3,
        diagonal: bool = False,
        ridge: float = 1e-6,
        steps: int = 200,
        tolerance: float = 1e-6,
        seed: int = 0,
    ):
        if min(components, steps) < 1:
            raise ValueError(f"components, steps: expected at least 1, got {components} and {steps}")
        if not (ridge >= 0 and tolerance >= 0):
            raise ValueError(f"ridge, tolerance: expected at least 0, got {ridge} and {tolerance}")
        self.components, self.diagonal, self.ridge = components, diagonal, ridge
        self.steps, self.tolerance, self.seed = steps, tolerance, seed
        self.mixture: Mixture | None = None
        self.history: list[float] = []

    def fit(self, features: Float[Tensor, "n d"], start: Mixture | None = None) -> Mixture:
        """The mixture from the groups of k-means, or from `start`. ValueError for NaN or fewer points than components."""
        if features.ndim != 2 or not bool(torch.isfinite(features).all()):
            raise ValueError(f"features: expected finite numbers n x d, got shape {tuple(features.shape)} or NaN")
        if len(features) < max(2, self.components):
            raise ValueError(f"features: expected at least {max(2, self.components)} points, got {len(features)}")
        x = features.double()
        if start is None:
            groups = KMeans(self.components, starts=3, seed=self.seed).fit(x).labels
            start = self._maximised(x, torch.nn.functional.one_hot(groups, self.components).double())
        if start.means.shape != (self.components, x.shape[1]):
            raise ValueError(f"start: expected {self.components} x {x.shape[1]} means, got {tuple(start.means.shape)}")
        mixture, self.history = start, []
        for _ in range(self.steps):
            joint = mixture.joint(x)
            self.history.append(float(joint.logsumexp(1).mean()))
            mixture = self._maximised(x, joint.softmax(1))
            if len(self.history) > 1 and abs(self.history[-1] - self.history[-2]) < self.tolerance:
                break
        self.history.append(float(mixture.log_density(x).mean()))
        self.mixture = mixture
        return mixture

    def _maximised(self, x: Float[Tensor, "n d"], shares: Float[Tensor, "n k"]) -> Mixture:
        """The M step. ValueError where a covariance is singular, which a ridge above 0 prevents."""
        count = shares.sum(0) + 10 * torch.finfo(x.dtype).eps
        means = shares.T @ x / count[:, None]
        away = x[None] - means[:, None]  # k n d
        covariances = (shares.T[..., None] * away).transpose(1, 2) @ away / count[:, None, None]
        if self.diagonal:
            covariances = torch.diag_embed(covariances.diagonal(dim1=-2, dim2=-1))
        covariances = covariances + self.ridge * torch.eye(x.shape[1], dtype=x.dtype)
        factor, failed = torch.linalg.cholesky_ex(covariances)
        thinnest = factor.diagonal(dim1=-2, dim2=-1).amin()
        if bool((failed > 0).any()) or float(thinnest) <= 1e-12 * (1 + float(x.abs().max())):
            raise ValueError("features: a component has no spread in some direction; set a ridge above 0")
        return Mixture(count / count.sum(), means, covariances)


def planted(count: int = 3000, seed: int = 0) -> tuple[Tensor, Mixture]:
    """Points of three Gaussians in the plane, and these."""
    means = torch.tensor([[0.0, 0.0], [4.0, 1.0], [1.0, 5.0]], dtype=torch.float64)
    covariances = torch.tensor(
        [[[0.5, 0.2], [0.2, 0.4]], [[0.3, -0.1], [-0.1, 0.6]], [[0.7, 0.0], [0.0, 0.2]]], dtype=torch.float64
    )
    truth = Mixture(torch.tensor([0.4, 0.35, 0.25], dtype=torch.float64), means, covariances)
    return truth.sample(count, torch.Generator().manual_seed(seed))[0], truth


def experiment(count: int = 3000, seed: int = 0) -> dict[str, float]:
    """Three planted Gaussians: the largest error of a mean, the likelihood beside the truth's, and its worst round."""
    x, truth = planted(count, seed)
    system = GaussianMixtureEM(3, seed=seed)
    found = system.fit(x)
    orders = [list(order) for order in permutations(range(3))]
    errors = [float((found.means[order] - truth.means).abs().max()) for order in orders]
    rounds = [b - a for a, b in zip(system.history, system.history[1:])]
    return {
        "mean_error": min(errors),
        "log_likelihood_gain": system.history[-1] - float(truth.log_density(x).mean()),
        "smallest_rise": min(rounds),
        "rounds": float(len(rounds)),
    }
