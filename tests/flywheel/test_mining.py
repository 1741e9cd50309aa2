"""Mining finds what the system is unsure of."""

import pytest
import torch

from oculi.flywheel.mining import hard_cases, hardness


def test_the_unsure_come_first():
    p = torch.tensor([[0.9, 0.05, 0.05], [0.4, 0.35, 0.25], [0.5, 0.49, 0.01]])
    assert hard_cases(p, 2).tolist() == [2, 1]
    assert hard_cases(p, 1, "entropy").tolist() == [1]
    assert hardness(torch.tensor([[1.0, 0.0]])).item() == 0


def test_an_impossible_budget_is_named():
    with pytest.raises(ValueError, match="budget"):
        hard_cases(torch.ones(2, 2) / 2, 3)
