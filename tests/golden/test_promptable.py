"""Worked numbers of promptable segmentation: the rounds, the lowest loss, the losses of a mask, stability."""

import pytest
import torch

from oculi.ops.boxes import paired_mask_iou
from oculi.segment.automatic_masks import stability
from oculi.segment.interactive_training import candidate_losses, clicking, mask_loss


def test_eleven_rounds_are_one_first_prompt_eight_clicks_and_two_without():
    for seed in range(20):
        torch.manual_seed(seed)
        rounds = clicking(8)
        assert 1 + len(rounds) == 11
        assert sum(rounds) == 8
        assert not rounds[-1]


def test_only_the_mask_of_lowest_loss_learns():
    truth = torch.zeros(1, 4, 4, dtype=torch.bool)
    truth[:, :2] = True
    logits = torch.stack([torch.zeros(4, 4), 2.0 * truth[0] - 1, torch.ones(4, 4)])[None].requires_grad_()
    losses = candidate_losses(logits, torch.zeros(1, 3), truth)
    (losses["focal"] + losses["dice"]).sum().backward()
    assert logits.grad[0, 1].abs().min() > 0
    assert float(logits.grad[0, [0, 2]].abs().max()) == 0
    focal, dice = mask_loss(logits[0].detach(), truth.expand(3, -1, -1).float())
    assert float((losses["focal"] + losses["dice"]).detach()) == pytest.approx(float((20 * focal + dice).min()))


def test_every_predicted_iou_learns_from_the_true_one():
    truth = torch.tensor([[[True, True, False, False]]])
    logits = torch.tensor([[[[1.0, 1, 1, 1]], [[1.0, -1, -1, -1]], [[-1.0, -1, -1, 1]]]])  # IoU 1/2, 1/2, 0
    quality = torch.tensor([[0.5, 0.7, 0.3]])
    assert float(candidate_losses(logits, quality, truth)["quality"]) == pytest.approx((0 + 0.04 + 0.09) / 3)
    assert paired_mask_iou(logits > 0, truth[:, None].expand(-1, 3, -1, -1)).tolist() == [[0.5, 0.5, 0.0]]


def test_losses_of_a_mask_by_hand():
    logits, truth = torch.zeros(1, 2, 2), torch.tensor([[[1.0, 0], [0, 0]]])
    focal, dice = mask_loss(logits, truth)
    # p = 1/2 everywhere: (1/2)^2 ln 2, weighted 1/4 on the object and 3/4 beside it
    assert float(focal) == pytest.approx(0.25 * 0.6931472 * (0.25 + 3 * 0.75) / 4)
    assert float(dice) == pytest.approx(1 - (2 * 0.5 + 1) / (2 + 1 + 1))


def test_stability_of_a_ramp():
    ramp = torch.arange(-5.0, 6)[None, None]  # above 1: 4 of them; above -1: 6
    assert float(stability(ramp)) == pytest.approx(4 / 6)
    assert float(stability(torch.full((1, 3, 3), -9.0))) == 0
