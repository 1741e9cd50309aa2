"""Focal loss: torchvision's values and gradients, cross-entropy as its limit, bad input."""

import pytest
import torch
from torch.nn import functional as F

import oracles
from oculi.nn.focal_loss import focal_loss


@pytest.mark.parametrize("alpha", [None, 0.25, 0.9])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_values_and_gradients_are_torchvisions(alpha, gamma):
    theirs = oracles.torchvision().ops.sigmoid_focal_loss
    g = torch.Generator().manual_seed(0)
    logits = (torch.randn(40, 7, generator=g) * 4).requires_grad_()
    targets = (torch.rand(40, 7, generator=g) < 0.3).float()
    ours = focal_loss(logits, targets, gamma, alpha)
    expected = theirs(logits, targets, -1 if alpha is None else alpha, gamma)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)
    slopes = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-6)


def test_gamma_zero_is_cross_entropy():
    logits, targets = torch.randn(50), (torch.rand(50) < 0.5).float()
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    assert torch.equal(focal_loss(logits, targets, 0.0, None), expected)


def test_extreme_logits_stay_finite():
    logits = torch.tensor([-200.0, 200, -200, 200], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0.0, 0, 1, 1]))
    assert torch.isfinite(loss).all()
    assert torch.isfinite(torch.autograd.grad(loss.sum(), logits)[0]).all()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="gamma"):
        focal_loss(torch.zeros(1), torch.zeros(1), gamma=-1)
    with pytest.raises(ValueError, match="alpha"):
        focal_loss(torch.zeros(1), torch.zeros(1), alpha=2)
