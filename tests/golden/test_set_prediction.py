"""Worked facts of set prediction: the matching, its loss, masked attention, the two inferences, points."""

import pytest
import torch

from oculi.detect.detr import set_loss
from oculi.nn.cross_attention import CrossAttention, foreground
from oculi.ops.assignment import assign
from oculi.ops.boxes import generalized_box_iou
from oculi.segment.maskformer import MaskFormer, dice, panoptic_answers, panoptic_segments, semantic_scores


def test_the_best_assignment_is_not_the_greedy_one():
    cost = torch.tensor([[[1.0, 2.0], [2.0, 9.0]]])  # greedy takes 1 and then pays 9
    found = assign(cost, torch.ones(1, 2, dtype=torch.bool))
    assert found.truth.tolist() == [1, 0]
    assert float(cost[0, found.query, found.truth].sum()) == 4


def test_generalised_iou_of_two_unit_squares():
    """Side by side: union 2, hull 2, so 0; one apart: hull 3, so -1/3; the same: 1."""
    unit = torch.tensor([[0.0, 0, 1, 1]])
    others = unit + torch.tensor([[1.0, 0, 1, 0], [2, 0, 2, 0], [0, 0, 0, 0]])
    assert generalized_box_iou(unit, others)[0].tolist() == pytest.approx([0, -1 / 3, 1])


def test_a_perfect_answer_costs_only_its_doubt():
    truth = torch.tensor([[[0.5, 0.5, 0.2, 0.4]]])
    logits = torch.tensor([[[20.0, 0, 0], [0, 0, 20]]])
    boxes = torch.cat([truth, truth + 0.1], 1)
    losses = set_loss(logits, boxes, truth, torch.tensor([[0]]), torch.tensor([[True]]))
    assert all(float(value) == pytest.approx(0, abs=1e-5) for value in losses.values())


def test_an_unmatched_query_weighs_a_tenth():
    """Two queries of even logits: CE is log 3 for both, whatever their weights; a wrong 'nothing' counts 0.1 of 1.1."""
    truth, labels, real = torch.tensor([[[0.5, 0.5, 0.2, 0.4]]]), torch.tensor([[0]]), torch.tensor([[True]])
    boxes = truth.expand(1, 2, 4)
    even = set_loss(torch.zeros(1, 2, 3), boxes, truth, labels, real)["classes"]
    assert float(even) == pytest.approx(1.0986, abs=1e-4)
    wrong = torch.tensor([[[20.0, 0, 0], [20, 0, 0]]])
    assert float(set_loss(wrong, boxes, truth, labels, real)["classes"]) == pytest.approx(0.1 * 20 / 1.1, abs=1e-3)


def test_masked_attention():
    """No weight outside the mask, rows sum to 1, an empty mask gives no NaN."""
    torch.manual_seed(0)
    logits = torch.tensor([[[[5.0, -5], [-5, 5]], [[-5, -5], [-5, -5]]]])
    weights = CrossAttention(4, 1).weights(torch.randn(1, 2, 4), torch.randn(1, 4, 4), foreground(logits))[0, 0]
    assert weights[0, [1, 2]].tolist() == [0, 0]
    assert weights.sum(-1).tolist() == pytest.approx([1, 1])
    assert bool((weights[1] > 0).all())


def test_semantic_inference_sums_over_queries():
    """S_khw = sum_n p_nk m_nhw: two queries with p = (0.5, 0.25, none 0.25) and masks 0.5 give 0.5 and 0.25."""
    logits = torch.tensor([[[2.0, 1, 1]] * 2]).log()
    scores = semantic_scores(logits, torch.zeros(1, 2, 1, 1))
    assert scores.flatten().tolist() == pytest.approx([0.5, 0.25])


def test_a_segment_that_loses_a_fifth_of_its_mask_is_dropped():
    logits = torch.full((1, 2, 2), -9.0)
    logits[..., 0] = 9
    masks = torch.full((1, 2, 1, 10), -9.0)
    masks[0, 0], masks[0, 1, 0, :2] = 4, 9  # the first loses 2 of 10: a share of 0.8 is not above 0.8
    assert panoptic_answers(panoptic_segments(logits, masks))[0].panoptic.unique().tolist() == [0, 1]
    masks[0, 1, 0, 1] = -9  # 1 of 10
    assert panoptic_answers(panoptic_segments(logits, masks))[0].panoptic.unique().tolist() == [1, 2]


def test_dice_of_half_a_mask():
    """m = (1, 1), t = (1, 0): 1 - (2 + 1) / (2 + 1 + 1) = 0.25."""
    assert float(dice(torch.tensor([[1.0, 1]]), torch.tensor([[1.0, 0]]))) == 0.25


def test_fixed_matching_wants_as_many_queries_as_classes():
    with pytest.raises(ValueError, match="fixed matching"):
        MaskFormer(4, queries=5, formulation="fixed")
