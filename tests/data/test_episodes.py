"""Episodes: counts are exact, support and queries disjoint, training never meets the unseen classes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oculi.data.datasets import Splits
from oculi.data.episodes import EpisodeSampler, load, split_by_class
from oculi.types import Sample

LABELS = torch.tensor([-1, *range(6)] * 9)


@settings(max_examples=25, deadline=None)
@given(ways=st.integers(1, 6), shots=st.integers(1, 4), queries=st.integers(1, 5), seed=st.integers(0, 99))
def test_counts_are_exact_and_nobody_is_asked_about_what_was_shown(ways, shots, queries, seed):
    sampler = EpisodeSampler(LABELS, ways, shots, queries)
    support, asked = sampler.draw(torch.Generator().manual_seed(seed))
    assert support.shape == (ways, shots)
    assert asked.shape == (ways, queries)
    both = torch.cat([support, asked], 1)
    assert len(both.unique()) == both.numel()
    rows = LABELS[both]
    assert (rows == rows[:, :1]).all()
    assert len(rows[:, 0].unique()) == ways
    assert (rows >= 0).all()


def test_five_ways_of_five_shots_make_a_support_of_25():
    support, _ = EpisodeSampler(LABELS, 5, 5, 4).draw(torch.Generator().manual_seed(0))
    assert support.numel() == 25


def test_the_seed_decides():
    sampler = EpisodeSampler(LABELS, 3, 1, 2)
    draws = [sampler.draw(torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_unseen_classes_are_never_trained_on():
    splits = load("digits", unseen=4)
    seen, validated, tested = ({s.label for s in part} for part in (splits.train, splits.validation, splits.test))
    assert len(seen) == 6
    assert tested == validated
    assert seen | tested == set(range(10))
    assert not seen & tested
    assert len(splits.class_names) == 10


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="ways: expected at most 6, the classes with 3 samples, got 7"):
        EpisodeSampler(LABELS, 7, 1, 2)
    with pytest.raises(ValueError, match="shots: expected at least 1, got 0"):
        EpisodeSampler(LABELS, 2, 0)
    with pytest.raises(ValueError, match="unseen: expected 1 to 1 of the 2 classes, got 2"):
        split_by_class(Splits([Sample(label=0)], [], [], ["a", "b"]), 2)
