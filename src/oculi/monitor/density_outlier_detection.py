r"""Outliers by density: what the reference makes improbable is flagged, at a stated share of false alarms.

A density is fitted to one half of the reference rows (embeddings, or the plain statistics of `monitor/features.py`), and the
other half says what values log p takes on ordinary data. For a new row

    p = (1 + number of held-out rows with log p <= its own) / (1 + held-out rows)          flagged where p <= rate

which flags ordinary rows at most at that rate, whatever the density is worth; a better density misses fewer outliers.

    gaussian   one Gaussian: log p falls with the Mahalanobis distance
    mixture    several (EM);  kernel: a Gaussian on every row (Scott's bandwidth)

Bishop: Novelty detection and neural network validation, 1994. Laxhammar, Falkman: conformal anomaly detection, 2011.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from oculi.classical.density_estimation import KernelDensity
from oculi.classical.gaussian_mixture_em import GaussianMixtureEM, Mixture


@dataclass
class OutlierReport:
    """Each row's log density, its p-value and whether it is flagged."""

    log_density: Float[Tensor, " n"]
    p_value: Float[Tensor, " n"]
    outlier: Bool[Tensor, " n"]


class DensityOutliers:
    """Flags rows of low density. rate: share of ordinary rows flagged at most; density: gaussian, mixture or kernel."""

    def __init__(self, rate: float = 0.01, density: str = "gaussian", components: int = 3, seed: int = 0):
        if not 0 < rate < 1:
            raise ValueError(f"rate: expected more than 0 and less than 1, got {rate}")
        if density not in ("gaussian", "mixture", "kernel"):
            raise ValueError(f"density: expected gaussian, mixture or kernel, got {density!r}")
        self.rate, self.density, self.components, self.seed = rate, density, components, seed
        self.fitted: Mixture | KernelDensity | None = None
        self.ordinary = torch.zeros(0, dtype=torch.float64)

    def fit(self, features: Float[Tensor, "n d"]) -> DensityOutliers:
        """Take these rows as ordinary. ValueError for NaN, or too few of them for the rate."""
        if features.ndim != 2 or not bool(torch.isfinite(features).all()):
            raise ValueError(f"features: expected finite numbers n x d, got shape {tuple(features.shape)} or NaN")
        half = len(features) // 2
        if (1 + half) * self.rate < 1:
            raise ValueError(f"features: expected at least {2 * round(1 / self.rate)} rows for a rate of {self.rate}")
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(self.seed))
        first, second = features[order[half:]].double(), features[order[:half]].double()
        if self.density == "kernel":
            self.fitted = KernelDensity().fit(first)
        else:
            number = 1 if self.density == "gaussian" else self.components
            self.fitted = GaussianMixtureEM(number, seed=self.seed).fit(first)
        self.ordinary = self.fitted.log_density(second).sort().values
        return self

    def report(self, features: Float[Tensor, "n d"]) -> OutlierReport:
        """The verdict on each row; one that holds NaN or infinity is an outlier with p = 1 / (1 + held-out rows)."""
        if self.fitted is None:
            raise ValueError("report: expected a call of fit before")
        whole = torch.isfinite(features).all(1)
        known = self.fitted.log_density(torch.where(whole[:, None], features, 0.0))
        density = torch.where(whole, known, -torch.inf)
        below = torch.searchsorted(self.ordinary, density, right=True)
        p = (1 + below.double()) / (1 + len(self.ordinary))
        return OutlierReport(density, p, p <= self.rate)
