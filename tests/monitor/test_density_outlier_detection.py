"""Outliers by density: the stated rate, planted outliers, and scikit-learn's detectors."""

import numpy as np
import pytest
import sklearn.covariance
import sklearn.ensemble
import sklearn.metrics
import torch

from oculi.classical.gaussian_mixture_em import planted
from oculi.monitor.density_outlier_detection import DensityOutliers


def scene(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Ordinary points of three humps, and outliers between and around them."""
    ordinary, _ = planted(600, seed)
    g = torch.Generator().manual_seed(seed)
    return ordinary, torch.rand(100, 2, generator=g, dtype=torch.float64) * 14 - 4


@pytest.mark.parametrize("density", ["gaussian", "mixture", "kernel"])
def test_ordinary_rows_are_flagged_at_the_stated_rate(density):
    monitor = DensityOutliers(0.05, density).fit(scene()[0])
    fresh, _ = planted(2000, seed=9)
    assert float(monitor.report(fresh).outlier.double().mean()) < 0.09
    assert bool(monitor.report(torch.tensor([[50.0, 50.0], [float("nan"), 0.0]])).outlier.all())


def test_a_better_density_finds_more_than_scikit_learns_forest():
    ordinary, strange = scene()
    fresh, _ = planted(300, seed=5)
    both = torch.cat([fresh, strange])
    truth = torch.cat([torch.zeros(300), torch.ones(100)]).numpy()
    forest = sklearn.ensemble.IsolationForest(n_estimators=50, random_state=0).fit(ordinary.numpy())
    theirs = sklearn.metrics.roc_auc_score(truth, -forest.score_samples(both.numpy()))
    for density in ("mixture", "kernel"):
        monitor = DensityOutliers(0.05, density).fit(ordinary)
        ours = sklearn.metrics.roc_auc_score(truth, -monitor.report(both).log_density.numpy())
        assert ours >= theirs - 0.01


def test_one_gaussian_ranks_as_the_elliptic_envelope():
    x = planted(300)[0][:, :2] @ torch.tensor([[1.0, 0.5], [0.0, 2.0]]).double()
    monitor = DensityOutliers(0.05).fit(x)
    envelope = sklearn.covariance.EmpiricalCovariance().fit(x.numpy())
    distance = envelope.mahalanobis(x.numpy())
    ranks = np.corrcoef(distance.argsort().argsort(), (-monitor.report(x).log_density.numpy()).argsort().argsort())
    assert ranks[0, 1] > 0.97


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DensityOutliers(0.0), "rate"),
        (lambda: DensityOutliers(density="forest"), "density"),
        (lambda: DensityOutliers(0.01).fit(torch.rand(50, 2)), "at least 200 rows"),
        (lambda: DensityOutliers(0.1).fit(torch.full((50, 2), float("nan"))), "finite"),
        (lambda: DensityOutliers().report(torch.rand(5, 2)), "call of fit"),
    ],
)
@pytest.mark.unchecked
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
