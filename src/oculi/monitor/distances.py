r"""Distances between two samples of numbers or two histograms, one per feature, all features at once.

    KS        max |F1 - F2|            in [0, 1], whatever the unit: the one to alarm on
    W1        ∫ |F1 - F2| dx           Wasserstein or earth mover's distance, in the feature's unit
    D1        Σ |F1 - F2|              of histograms; times the bin width it is their W1
    KL        Σ p ln(p / q)            infinite where q is 0 and p is not: shown, never alarmed on

F are cumulative distributions. [.5, .5, 0] against [0, .5, .5] has D1 = 1: everything moves by one bin.

Kolmogorov 1933; Rubner et al., The Earth Mover's Distance as a Metric for Image Retrieval, 2000.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def ks_statistic(a: Float[Tensor, "n *features"], b: Float[Tensor, "m *features"]) -> Float[Tensor, "*features"]:
    """Largest distance between the empirical distribution functions of each feature."""
    first, second, _ = _distributions(a, b)
    return (first - second).abs().amax(0).reshape(a.shape[1:])


def ks_p_value(statistic: Float[Tensor, "*features"], n: int, m: int) -> Float[Tensor, "*features"]:
    """Two-sided p-value of a KS statistic from samples of n and m; too large for discrete data, never too small.

    The distribution is that of one sample of size nm / (n + m), as in scipy's asymptotic mode.
    """
    from scipy.stats import kstwo

    values = kstwo.sf(statistic.double().numpy(), round(n * m / (n + m)))
    return torch.as_tensor(values, dtype=torch.float64).clamp(0, 1)


def wasserstein(a: Float[Tensor, "n *features"], b: Float[Tensor, "m *features"]) -> Float[Tensor, "*features"]:
    """W1 between two samples of each feature, in the feature's unit."""
    first, second, values = _distributions(a, b)
    gaps = values[1:] - values[:-1]
    return ((first - second).abs()[:-1] * gaps).sum(0).reshape(a.shape[1:])


def sample_d1(
    a: Float[Tensor, "n *features"], b: Float[Tensor, "m *features"], bins: int = 20
) -> Float[Tensor, "*features"]:
    """D1 of each feature's two histograms, on equal bins over the range of both; in bins, so 0 to `bins` - 1."""
    _check_samples(a, b)
    low = torch.minimum(a.amin(0), b.amin(0)).double()
    width = (torch.maximum(a.amax(0), b.amax(0)).double() - low).clamp_min(1e-300) / bins
    shares = []
    for sample in (a, b):
        which = ((sample.double() - low) / width).long().clamp(0, bins - 1).reshape(len(sample), -1).T
        counts = torch.zeros(len(which), bins, dtype=torch.float64).scatter_add_(
            1, which, torch.ones(which.shape, dtype=torch.float64)
        )
        shares.append(counts / len(sample))
    return histogram_d1(*shares).reshape(a.shape[1:])


def histogram_d1(p: Float[Tensor, "*batch bins"], q: Float[Tensor, "*batch bins"]) -> Float[Tensor, "*batch"]:
    """Sum over bins of the distance between two cumulative histograms."""
    _check_histograms(p, q)
    return (p.double() - q.double()).cumsum(-1).abs().sum(-1)


def histogram_wasserstein(
    p: Float[Tensor, "*batch bins"], q: Float[Tensor, "*batch bins"], bin_width: float = 1.0
) -> Float[Tensor, "*batch"]:
    """W1 between two histograms on the same bins of equal width."""
    return histogram_d1(p, q) * bin_width


def histogram_ks(p: Float[Tensor, "*batch bins"], q: Float[Tensor, "*batch bins"]) -> Float[Tensor, "*batch"]:
    """Largest distance between two cumulative histograms."""
    _check_histograms(p, q)
    return (p.double() - q.double()).cumsum(-1).abs().amax(-1)


def histogram_kl(p: Float[Tensor, "*batch bins"], q: Float[Tensor, "*batch bins"]) -> Float[Tensor, "*batch"]:
    """Kullback-Leibler divergence in nats; infinite where `q` is empty and `p` is not."""
    _check_histograms(p, q)
    p, q = p.double(), q.double()
    return torch.where(p > 0, p * (p.clamp_min(1e-300).log() - q.log()), 0.0).sum(-1)


def _distributions(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both distribution functions at every pooled value of each feature, and these values in order, `n+m x features`."""
    _check_samples(a, b)
    left, right = (sample.double().reshape(len(sample), -1).T.contiguous().sort(1).values for sample in (a, b))
    values = torch.cat([left, right], 1).sort(1).values
    first, second = (torch.searchsorted(s, values, right=True).T.double() / s.shape[1] for s in (left, right))
    return first, second, values.T


def _check_samples(a: Tensor, b: Tensor) -> None:
    for name, sample in (("a", a), ("b", b)):
        if sample.ndim == 0 or len(sample) == 0 or not bool(torch.isfinite(sample).all()):
            raise ValueError(f"{name}: expected at least one number, all finite, got shape {tuple(sample.shape)}")
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"b: expected the features of a, {tuple(a.shape[1:])}, got {tuple(b.shape[1:])}")


def _check_histograms(p: Tensor, q: Tensor) -> None:
    if p.shape != q.shape or p.ndim == 0:
        raise ValueError(f"q: expected the shape of p, {tuple(p.shape)}, got {tuple(q.shape)}")
    for name, histogram in (("p", p), ("q", q)):
        sums = histogram.double().sum(-1)
        if bool((histogram < 0).any()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
            raise ValueError(f"{name}: expected shares of at least 0 that sum to 1")
