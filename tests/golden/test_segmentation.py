"""Worked numbers of segmentation: overlap losses of one small map, what they have to do with each other."""

import pytest
import torch

from oculi.nn.segmentation_losses import dice_loss, iou_loss, tversky_loss

A = torch.tensor(
    [[0.01, 0.03, 0.02, 0.02], [0.05, 0.12, 0.09, 0.07], [0.89, 0.85, 0.88, 0.91], [0.99, 0.97, 0.95, 0.97]]
)
B = torch.tensor([[0.0] * 4] * 2 + [[1.0] * 4] * 2)
WORKED = (A[None, None], B[None, None])
HIT, SAID, TRUE = 7.41, 7.82, 8.0


def test_the_sums():
    assert float((A * B).sum()) == pytest.approx(HIT)
    assert float(A.sum()) == pytest.approx(SAID)
    assert float(B.sum()) == TRUE


def test_dice():
    assert float(dice_loss(*WORKED)) == pytest.approx(0.0632111, abs=1e-6)
    assert float(dice_loss(*WORKED)) == pytest.approx(1 - 2 * HIT / (SAID + TRUE), abs=1e-6)
    assert float(dice_loss(*WORKED, squared=True)) == pytest.approx(0.0062495, abs=1e-6)


def test_iou():
    assert float(iou_loss(*WORKED)) == pytest.approx(0.1189061, abs=1e-6)
    iou = 1 - 0.1189061
    assert 1 - 2 * iou / (1 + iou) == pytest.approx(0.0632111, abs=1e-6)


def test_tversky():
    assert float(tversky_loss(*WORKED)) == pytest.approx(0.0632111, abs=1e-6)
    assert float(tversky_loss(*WORKED, 1.0, 1.0)) == pytest.approx(0.1189061, abs=1e-6)
    by_hand = 1 - HIT / (HIT + 0.3 * (SAID - HIT) + 0.7 * (TRUE - HIT))
    assert float(tversky_loss(*WORKED, 0.3, 0.7)) == pytest.approx(by_hand, abs=1e-6)
