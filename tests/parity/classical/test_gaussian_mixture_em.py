"""Mixtures, estimators and kernel densities beside scikit-learn's and scipy's."""

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.mixture
import sklearn.neighbors
import torch

from oculi.classical.density_estimation import KernelDensity
from oculi.classical.gaussian_mixture_em import GaussianMixtureEM, Mixture, experiment, planted
from oculi.classical.parameter_estimation import (
    bernoulli_map,
    bernoulli_mle,
    categorical_map,
    categorical_mle,
    exponential_mle,
    maximise,
    normal_mean_map,
    normal_mle,
    poisson_mle,
)


def start() -> Mixture:
    means = torch.tensor([[-1.0, 0.0], [5.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    return Mixture(torch.full((3,), 1 / 3, dtype=torch.float64), means, torch.eye(2).double().repeat(3, 1, 1))


@pytest.mark.parametrize("diagonal", [False, True])
def test_the_same_start_gives_scikit_learns_mixture(diagonal):
    x, _ = planted(400)
    system = GaussianMixtureEM(3, diagonal, steps=60, tolerance=0.0)
    ours = system.fit(x, start())
    theirs = sklearn.mixture.GaussianMixture(
        3, covariance_type="diag" if diagonal else "full", tol=1e-12, max_iter=60, weights_init=[1 / 3] * 3,
        means_init=start().means.numpy(), precisions_init=np.ones((3, 2)) if diagonal else np.stack([np.eye(2)] * 3),
    ).fit(x.numpy())  # fmt: skip
    np.testing.assert_allclose(ours.means.numpy(), theirs.means_, atol=1e-4)
    np.testing.assert_allclose(ours.weights.numpy(), theirs.weights_, atol=1e-4)
    assert system.history[-1] == pytest.approx(theirs.score(x.numpy()), abs=1e-6)
    np.testing.assert_allclose(ours.log_density(x).numpy(), theirs.score_samples(x.numpy()), atol=1e-3)
    np.testing.assert_allclose(ours.responsibilities(x).numpy(), theirs.predict_proba(x.numpy()), atol=1e-3)
    assert all(b >= a - 1e-9 for a, b in zip(system.history, system.history[1:]))


def test_planted_gaussians_are_found():
    figures = experiment(count=3000)
    assert figures["mean_error"] < 0.08
    assert figures["log_likelihood_gain"] >= 0
    assert figures["smallest_rise"] >= -1e-6


def test_density_is_scipys_and_integrates_to_one():
    _, truth = planted(2)
    y, x = torch.meshgrid(torch.linspace(-5, 10, 150), torch.linspace(-5, 10, 150), indexing="ij")
    points = torch.stack([x, y], -1).reshape(-1, 2).double()
    assert float(truth.log_density(points).exp().sum() * (15 / 149) ** 2) == pytest.approx(1, abs=1e-3)
    one = scipy.stats.multivariate_normal(truth.means[0].numpy(), truth.covariances[0].numpy())
    np.testing.assert_allclose(
        truth.joint(points[:9])[:, 0].numpy(), one.logpdf(points[:9].numpy()) + math.log(0.4), atol=1e-9
    )


@pytest.mark.parametrize("bandwidth", [0.4, "scott", "silverman"])
def test_kernel_densities_are_scikit_learns_and_scipys(bandwidth):
    x, _ = planted(200)
    at, _ = planted(50, seed=1)
    ours = KernelDensity(bandwidth).fit(x).log_density(at).numpy()
    if isinstance(bandwidth, str):
        expected = scipy.stats.gaussian_kde(x.numpy().T, bandwidth).logpdf(at.numpy().T)
    else:
        expected = sklearn.neighbors.KernelDensity(bandwidth=bandwidth).fit(x.numpy()).score_samples(at.numpy())
    np.testing.assert_allclose(ours, expected, atol=1e-8)


def test_the_likeliest_bandwidth_beats_scotts_on_two_humps():
    g = torch.Generator().manual_seed(0)
    sides = torch.where(torch.rand(400, 1, generator=g) < 0.5, -4.0, 4.0)
    x = (sides + 0.3 * torch.randn(400, 1, generator=g)).double()
    likely, scott = (KernelDensity(b).fit(x[:200]).log_density(x[200:]).mean() for b in ("likelihood", "scott"))
    assert float(likely) > float(scott) + 0.3
    drawn = KernelDensity(0.1).fit(x).sample(500, torch.Generator().manual_seed(1))
    assert float(drawn.std()) == pytest.approx(float(x.std()), rel=0.1)


def test_closed_forms():
    x = torch.tensor([1.0, 2.0, 4.0, 7.0], dtype=torch.float64)
    mean, variance = normal_mle(x)
    theirs = scipy.stats.norm.fit(x.numpy())
    assert (float(mean), float(variance.sqrt())) == pytest.approx(theirs)
    assert float(1 / exponential_mle(x)) == pytest.approx(scipy.stats.expon.fit(x.numpy(), floc=0)[1])
    assert float(poisson_mle(torch.tensor([1, 2, 6]))) == 3.0
    flips = torch.tensor([1] * 7 + [0] * 3)
    assert bernoulli_mle(flips) == 0.7
    assert bernoulli_map(flips, 2, 2) == pytest.approx(8 / 12)
    assert categorical_mle(torch.tensor([0, 2, 2, 2]), 3).tolist() == [0.25, 0.0, 0.75]
    shares = categorical_map(torch.tensor([0, 2, 2, 2]), torch.tensor([2.0, 2.0, 2.0]))
    torch.testing.assert_close(shares, torch.tensor([2, 1, 4]).double() / 7)
    # one measurement as sure as the prior: half-way
    assert float(normal_mean_map(torch.tensor([4.0]), 1.0, 0.0, 1.0)) == 2.0
    assert float(normal_mean_map(x, 1.0, 0.0, 1e12)) == pytest.approx(3.5)


def test_maximisation_finds_the_closed_forms():
    x = planted(100)[0][:, 0]

    def normal(data, q):
        return -q[1] - 0.5 * ((data - q[0]) / q[1].exp()) ** 2

    found = maximise(normal, x, torch.zeros(2))
    mean, variance = normal_mle(x)
    torch.testing.assert_close(found, torch.stack([mean, 0.5 * variance.log()]), atol=1e-5, rtol=0)
    shrunk = maximise(lambda d, q: -0.5 * (d - q[0]) ** 2, x, torch.zeros(1), lambda q: -0.5 * (q**2).sum())
    torch.testing.assert_close(shrunk[0], normal_mean_map(x, 1.0), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GaussianMixtureEM(0), "components, steps"),
        (lambda: GaussianMixtureEM(3).fit(torch.rand(2, 2)), "at least 3 points"),
        (lambda: GaussianMixtureEM(1).fit(torch.full((5, 2), float("nan"))), "finite"),
        (lambda: GaussianMixtureEM(1, ridge=0.0).fit(torch.ones(5, 2)), "no spread"),
        (lambda: KernelDensity("wide"), "bandwidth"),
        (lambda: KernelDensity(-1.0), "bandwidth"),
        (lambda: KernelDensity().fit(torch.ones(5, 2)), "no spread"),
        (lambda: KernelDensity("likelihood").fit(torch.ones(5, 2)), "no spread"),
        (lambda: KernelDensity().log_density(torch.ones(5, 2)), "call of fit"),
        (lambda: bernoulli_map(torch.tensor([0.5])), "zeros and ones"),
        (lambda: bernoulli_map(torch.tensor([1.0]), 0.5, 0.5), "a mode"),
        (lambda: categorical_map(torch.tensor([3]), torch.ones(2)), "labels"),
        (lambda: exponential_mle(torch.tensor([-1.0])), "at least 0"),
        (lambda: poisson_mle(torch.tensor([-1])), "at least 0"),
        (lambda: normal_mean_map(torch.ones(2), 0.0), "above 0"),
        (lambda: normal_mle(torch.zeros(0)), "at least one"),
        (lambda: maximise(lambda d, q: d * q[0], torch.ones(3), torch.zeros(1)), "no finite maximum"),
    ],
)
@pytest.mark.unchecked
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
