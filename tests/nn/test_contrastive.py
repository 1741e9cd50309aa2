"""NT-Xent and cosines: worked numbers, symmetries, bad input."""

import math

import pytest
import torch
from torch.nn import functional as F

from oculi.nn.contrastive import cosine_similarity, nt_xent_loss


def test_a_lone_picture_costs_nothing():
    assert float(nt_xent_loss(torch.randn(1, 4), torch.randn(1, 4))) == 0


def test_orthogonal_pairs_as_worked_by_hand():
    """Positives with cosine 1, the 2(N - 1) = 2 negatives with cosine 0: -log(e^2 / (e^2 + 2)) at tau = 0.5."""
    views = torch.eye(2, 3)
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert float(nt_xent_loss(views, views * 5, 0.5)) == pytest.approx(expected, abs=1e-6)


def test_equal_views_of_everybody_cost_the_log_of_what_can_be_chosen():
    same = torch.ones(5, 3)
    assert float(nt_xent_loss(same, same)) == pytest.approx(math.log(2 * 5 - 1), abs=1e-6)


def test_it_ignores_length_order_and_which_view_is_first():
    torch.manual_seed(0)
    first, second = torch.randn(6, 4), torch.randn(6, 4)
    order, loss = torch.randperm(6), nt_xent_loss(first, second)
    torch.testing.assert_close(nt_xent_loss(first[order], second[order]), loss)
    torch.testing.assert_close(nt_xent_loss(second, first), loss)
    torch.testing.assert_close(nt_xent_loss(3 * first, second / 7), loss)


def test_cosine_equals_torch_and_survives_zero():
    torch.manual_seed(0)
    x, y = torch.randn(3, 5), torch.randn(4, 5)
    torch.testing.assert_close(cosine_similarity(x, y), F.cosine_similarity(x[:, None], y[None], dim=-1))
    assert cosine_similarity(torch.zeros(1, 5), y).abs().max() == 0


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"second: expected the shape of first \(2, 3\), got \(3, 3\)"):
        nt_xent_loss(torch.ones(2, 3), torch.ones(3, 3))
    with pytest.raises(ValueError, match="temperature: expected a positive number, got 0"):
        nt_xent_loss(torch.ones(2, 3), torch.ones(2, 3), 0)
