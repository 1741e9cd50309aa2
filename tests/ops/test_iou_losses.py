"""Losses of overlap: torchvision's values and gradients, worked numbers, what they are for, bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from oculi.ops.iou_losses import iou_loss

NAMES = {"giou": "generalized_box_iou_loss", "diou": "distance_box_iou_loss", "ciou": "complete_box_iou_loss"}


def pairs(n, seed, spread=20.0):
    g = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(2, n, 2, generator=g) * spread, 0.5 + torch.rand(2, n, 2, generator=g) * 12
    return torch.cat([corner, corner + size], -1).unbind(0)


@pytest.mark.parametrize("kind", NAMES)
def test_values_and_gradients_are_torchvisions(kind):
    theirs = getattr(oracles.torchvision().ops, NAMES[kind])
    a, b = (boxes.requires_grad_() for boxes in pairs(500, 0))
    ours, expected = iou_loss(a, b, kind), theirs(a, b)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    for x, y in zip(torch.autograd.grad(ours.sum(), (a, b)), torch.autograd.grad(expected.sum(), (a, b)), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


def test_generalised_overlap_is_torchvisions():
    theirs = oracles.torchvision().ops.generalized_box_iou
    a, b = pairs(50, 1)
    torch.testing.assert_close(1 - iou_loss(a, b, "giou"), theirs(a, b).diagonal(), rtol=0, atol=1e-6)


def test_boxes_that_do_not_meet_are_pulled_together():
    given_, wanted = torch.tensor([[0.0, 0, 2, 2]], requires_grad=True), torch.tensor([[10.0, 0, 12, 2]])
    assert float(torch.autograd.grad(iou_loss(given_, wanted, "iou").sum(), given_)[0].abs().sum()) == 0
    for kind in NAMES:
        slope = torch.autograd.grad(iou_loss(given_, wanted, kind).sum(), given_)[0]
        assert float(slope[0, 2]) < 0, "to the right is better"


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(1, 1000))
def test_range_and_symmetry(seed, spread):
    a, b = pairs(20, seed, spread)
    value = 1 - iou_loss(a, b, "giou")
    assert (value > -1).all()
    assert (value <= 1).all()
    torch.testing.assert_close(iou_loss(b, a, "giou"), 1 - value)
    assert float(iou_loss(a, a, "ciou").abs().max()) < 1e-5


def test_bad_kind_is_named():
    with pytest.raises(ValueError, match=r"kind.*got 'l1'"):
        iou_loss(torch.zeros(1, 4), torch.zeros(1, 4), "l1")
