"""Worked numbers of detection by boxes."""

import pytest
import torch

from oculi.nn.focal_loss import focal_loss
from oculi.ops.iou_losses import iou_loss
from oculi.ops.soft_nms import soft_nms


def focal(p: float, gamma: float) -> float:
    """Of one example whose true class has probability p, without alpha."""
    logit = torch.tensor([p], dtype=torch.float64).logit()
    return float(focal_loss(logit, torch.ones(1, dtype=torch.float64), gamma, None))


def test_focal_loss_of_an_easy_example():
    assert focal(0.9, 2) == pytest.approx(0.00105361, abs=1e-8)
    assert focal(0.9, 0) == pytest.approx(0.105361, abs=1e-6)


def test_a_hundred_thousand_easy_against_a_hundred_hard_examples():
    assert 100_000 * focal(0.9, 0) / (100 * focal(0.1, 0)) == pytest.approx(45.757, abs=1e-3)
    assert 100_000 * focal(0.9, 2) / (100 * focal(0.1, 2)) == pytest.approx(0.5649, abs=1e-4)


def test_generalised_overlap_of_unit_boxes_one_unit_apart():
    a, b = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]])
    assert 1 - float(iou_loss(a, b, "giou")) == pytest.approx(-1 / 3, abs=1e-6)


def test_soft_nms_at_full_overlap():
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]])
    _, scores = soft_nms(boxes, torch.tensor([1.0, 1.0]), sigma=0.5)
    assert scores.tolist() == pytest.approx([1.0, 0.135335], abs=1e-6)
