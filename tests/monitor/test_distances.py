"""Worked numbers, symmetry and bad input of the distances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oculi.monitor.distances import histogram_d1, histogram_kl, histogram_ks, ks_statistic, sample_d1, wasserstein

P, Q = torch.tensor([0.5, 0.5, 0]), torch.tensor([0, 0.5, 0.5])


def test_half_the_mass_moves_two_bins():
    assert float(histogram_d1(P, Q)) == pytest.approx(1.0)
    assert float(histogram_ks(P, Q)) == pytest.approx(0.5)
    assert math.isinf(float(histogram_kl(P, Q)))
    assert float(histogram_kl(P, P)) == 0


def test_distances_grow_with_the_shift_where_kl_is_infinite_from_the_start():
    bins = torch.eye(5)
    found = [float(histogram_d1(bins[0], bins[i])) for i in range(5)]
    assert found == pytest.approx([0, 1, 2, 3, 4])
    assert all(math.isinf(float(histogram_kl(bins[0], bins[i]))) for i in range(1, 5))


def test_by_hand():
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    assert float(ks_statistic(a, b)) == pytest.approx(0.5)
    assert float(wasserstein(a, b)) == pytest.approx(1.0)
    assert float(sample_d1(a, b, bins=2)) == pytest.approx(0.5)


numbers = st.lists(st.floats(-100, 100, allow_nan=False, width=32), min_size=1, max_size=20)


@settings(deadline=None, max_examples=40)
@given(numbers, numbers)
def test_symmetric_bounded_and_zero_on_itself(x, y):
    a, b = torch.tensor(x)[:, None], torch.tensor(y)[:, None]
    assert 0 <= float(ks_statistic(a, b)) <= 1
    for distance in (ks_statistic, wasserstein, sample_d1):
        assert float(distance(a, b)) == pytest.approx(float(distance(b, a)), abs=1e-9)
        assert float(distance(a, a)) == 0
    assert float(wasserstein(a, b + 1)) <= float(wasserstein(a, b)) + 1 + 1e-4


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"^a: .*finite"):
        ks_statistic(torch.tensor([float("nan")]), torch.ones(2))
    with pytest.raises(ValueError, match=r"^b: expected at least one"):
        wasserstein(torch.ones(2, 1), torch.ones(0, 1))
    with pytest.raises(ValueError, match=r"^b: expected the features"):
        sample_d1(torch.ones(2, 1), torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"^q: expected the shape"):
        histogram_d1(P, torch.ones(2) / 2)
    with pytest.raises(ValueError, match=r"^q: .*sum to 1"):
        histogram_ks(P, 2 * Q)
