"""Stochastic depth: torchvision's bits, the paper's schedule, expectation and extremes."""

import pytest
import torch

from oculi.nn.stochastic_depth import StochasticDepth, drop_rates, stochastic_depth
from oracles import torchvision


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(64, 3, 4, 4), (64, 5)])
def test_equals_torchvision(rate, shape):
    x = torch.randn(shape)
    torch.manual_seed(1)
    theirs = torchvision().ops.stochastic_depth(x, rate, "row", True)
    torch.manual_seed(1)
    assert torch.equal(stochastic_depth(x, rate), theirs)


def test_survival_falls_linearly_to_the_last():
    survival = [1 - q for q in drop_rates(54, 0.5)]  # the paper's ResNet-110: 54 blocks, p_L = 0.5
    for block, p in enumerate(survival, 1):
        assert p == pytest.approx(1 - block / 54 * (1 - 0.5))
    assert sum(survival) == pytest.approx((3 * 54 - 1) / 4)  # the expected depth, 40.25: "about 40 blocks"


def test_whole_samples_are_dropped_and_the_mean_stays():
    torch.manual_seed(0)
    out = stochastic_depth(torch.ones(20_000, 2), 0.3)
    assert torch.equal(out[:, 0], out[:, 1])
    assert out[:, 0].unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert float(out.mean()) == pytest.approx(1, abs=0.02)


def test_evaluation_and_rate_zero_are_the_identity():
    x = torch.randn(4, 3)
    assert StochasticDepth(0.9).eval()(x) is x
    assert StochasticDepth(0.0)(x) is x
    assert not StochasticDepth(1.0)(x).any()
    with pytest.raises(ValueError, match="rate: expected a probability from 0 to 1, got 2"):
        StochasticDepth(2)
