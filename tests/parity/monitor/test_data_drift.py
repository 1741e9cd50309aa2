"""Distances beside scipy's, calibration of the p-value, and what the monitor says without drift and with it."""

import numpy as np
import pytest
import scipy.stats
import torch

from oculi.monitor.data_drift import DataDrift, chance_maxima, shifts
from oculi.monitor.distances import (
    histogram_d1,
    histogram_kl,
    histogram_ks,
    histogram_wasserstein,
    ks_p_value,
    ks_statistic,
    wasserstein,
)
from oculi.monitor.features import hsv, image_statistics


def samples(n, m, seed, round_to=None):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(n, 3, generator=g), 0.3 + 1.2 * torch.randn(m, 3, generator=g)
    return (a, b) if round_to is None else (a.round(decimals=round_to), b.round(decimals=round_to))


@pytest.mark.parametrize(("n", "m", "round_to"), [(50, 80, None), (7, 3, None), (60, 60, 0), (2, 3, None)])
def test_samples_are_as_far_apart_as_scipy_says(n, m, round_to):
    a, b = samples(n, m, 0, round_to)
    ks, moved = ks_statistic(a, b), wasserstein(a, b)
    for column in range(3):
        x, y = a[:, column].double().numpy(), b[:, column].double().numpy()
        theirs = scipy.stats.ks_2samp(x, y, method="asymp")
        assert float(ks[column]) == pytest.approx(theirs.statistic, abs=1e-12)
        assert float(ks_p_value(ks, n, m)[column]) == pytest.approx(theirs.pvalue, abs=1e-9)
        assert float(moved[column]) == pytest.approx(scipy.stats.wasserstein_distance(x, y), abs=1e-12)


def test_histograms_are_as_far_apart_as_scipy_says():
    g = np.random.default_rng(0)
    p, q = (torch.from_numpy(g.dirichlet(np.ones(12), 4)) for _ in range(2))
    centres, width = np.arange(12) * 0.25, 0.25
    for i in range(4):
        theirs = scipy.stats.wasserstein_distance(centres, centres, p[i].numpy(), q[i].numpy())
        assert float(histogram_wasserstein(p, q, width)[i]) == pytest.approx(theirs, abs=1e-9)
        assert float(histogram_d1(p, q)[i]) * width == pytest.approx(theirs, abs=1e-9)
        assert float(histogram_kl(p, q)[i]) == pytest.approx(scipy.stats.entropy(p[i].numpy(), q[i].numpy()), abs=1e-9)
        assert float(histogram_ks(p, q)[i]) == pytest.approx(float((p[i] - q[i]).cumsum(0).abs().max()), abs=1e-12)


def test_hue_saturation_value_are_matplotlibs():
    from matplotlib.colors import rgb_to_hsv

    image = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    image[0, :, 0, 0] = 0.4
    theirs = rgb_to_hsv(image.permute(0, 2, 3, 1).double().numpy())
    torch.testing.assert_close(hsv(image).permute(0, 2, 3, 1).double(), torch.from_numpy(theirs), atol=1e-5, rtol=0)


def test_p_values_are_uniform_without_drift():
    """The largest of several statistics against its own chance distribution: neither too many alarms nor too few."""
    g = torch.Generator().manual_seed(0)
    found = []
    for _ in range(120):
        rows = torch.randn(240, 4, generator=g) @ torch.tensor(
            [[1.0, 0.9, 0, 0], [0, 0.4, 0, 0], [0, 0, 1, 1], [0] * 4]
        )
        reference, window = rows[:200], rows[200:]
        chance = chance_maxima(reference, 40, 99)
        largest = float(ks_statistic(reference, window).max()) * (200 * 40 / 240) ** 0.5
        found.append((1 + int((chance >= largest - 1e-6).sum())) / 100)
    assert scipy.stats.kstest(found, "uniform").pvalue > 0.01
    assert 0.01 <= np.mean(np.array(found) <= 0.1) <= 0.2


@pytest.mark.parametrize("name", ["brightness", "hue", "noise", "blur"])
def test_changes_of_camera_and_light_raise_the_alarm(name):
    from oculi.data.world.dataset import World

    world = World(480, "classification", size=24, seed=1)
    images = torch.stack([world[i].image for i in range(480)])
    monitor = DataDrift(0.01, window=120, stride=40, resamples=200).fit(images[:360])
    assert not monitor.test(images[360:]).alarm
    change = shifts(torch.Generator().manual_seed(0))[name]
    found = monitor.test(change(change(images[360:])))
    assert found.alarm
    assert found.p_value < 0.01
    assert found.features[found.worst]["ks"] > found.threshold


def test_a_grey_picture_has_no_hue():
    statistics = image_statistics(torch.full((1, 3, 5, 5), 0.5))
    assert float(statistics[0, 4:16].sum()) == 0
    assert float(statistics[0, :4].sum()) == pytest.approx(0.5)
