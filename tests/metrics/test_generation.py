"""Scores of generated pictures on sets whose answer is known."""

import pytest
import torch

from oculi.metrics.generation import class_coverage, frechet_distance, memorisation


def test_frechet_distance_of_gaussians_is_the_closed_form():
    g = torch.Generator().manual_seed(0)
    one = torch.randn(20_000, 3, generator=g)
    two = torch.randn(20_000, 3, generator=g) * 2 + 1
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(one, two) == pytest.approx(3 * 1 + 3 * (1 + 4 - 2 * 2), rel=0.05)


def test_coverage_is_one_when_even_and_a_tenth_after_collapse():
    assert class_coverage(torch.arange(10).repeat(5), 10) == pytest.approx(1)
    assert class_coverage(torch.zeros(50, dtype=torch.int64), 10) == pytest.approx(0.1)


def test_copies_are_called_memorised_and_new_samples_are_not():
    g = torch.Generator().manual_seed(0)
    training, held_out, new = (torch.randn(500, 5, generator=g) for _ in range(3))
    assert memorisation(training[:100], training, held_out) == 1
    assert memorisation(new, training, held_out) == pytest.approx(0.05, abs=0.03)


@pytest.mark.unchecked
def test_one_row_is_too_few():
    with pytest.raises(ValueError, match="two rows"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(4, 3))
