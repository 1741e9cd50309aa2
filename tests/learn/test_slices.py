"""Slices: a planted failing slice is flagged, and none is where nothing is wrong, in 19 of 20 seeds."""

import pytest
import torch
from scipy.stats import fisher_exact

from oculi.learn.slices import slice_scores


def flagged(seed: int, planted: float) -> list[str]:
    g = torch.Generator().manual_seed(seed)
    size = torch.rand(600, generator=g)
    members = {f"size {i}": (size >= i / 5) & (size < (i + 1) / 5) for i in range(5)}
    chance = torch.where(members["size 0"], torch.tensor(planted), torch.tensor(0.9))
    right = torch.rand(600, generator=g) < chance
    return [s.name for s in slice_scores(right, members) if s.worse]


def test_a_planted_slice_is_flagged_and_no_other():
    assert sum(flagged(seed, 0.65) == ["size 0"] for seed in range(20)) >= 19


def test_nothing_is_flagged_without_a_fault():
    assert sum(not flagged(seed, 0.9) for seed in range(20)) >= 19


def test_tiny_slices_are_left_out():
    right = torch.ones(50, dtype=torch.bool)
    assert slice_scores(right, {"few": torch.arange(50) < 3}) == []


def test_the_probability_is_fishers():
    for seed in range(20):
        right = torch.rand(60, generator=torch.Generator().manual_seed(seed)) < 0.8
        inside = torch.arange(60) < 15
        table = [[int((right & part).sum()), int((~right & part).sum())] for part in (inside, ~inside)]
        expected = fisher_exact(table, alternative="less").pvalue
        assert slice_scores(right, {"it": inside})[0].p_value == pytest.approx(expected, abs=1e-9)
