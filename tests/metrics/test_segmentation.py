"""Segmentation scores: worked numbers, ignored pixels, and the reference of scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import jaccard_score

from oculi.metrics.segmentation import intersection_over_union, mean_iou, pixel_accuracy, pixel_confusion


def test_as_worked_by_hand():
    truth = torch.tensor([[0, 0, 1, 1], [0, 255, 1, 1]])
    said = torch.tensor([[0, 1, 1, 1], [0, 1, 0, 1]])
    counts = pixel_confusion(said, truth, 3)
    assert counts.tolist() == [[2, 1, 0], [1, 3, 0], [0, 0, 0]]
    iou = intersection_over_union(counts)
    assert iou[:2].tolist() == [2 / 4, 3 / 5]
    assert math.isnan(iou[2])
    assert mean_iou(counts) == pytest.approx(0.55)
    assert pixel_accuracy(counts) == pytest.approx(5 / 7)


def test_equals_scikit_learn():
    torch.manual_seed(0)
    truth, said = torch.randint(0, 4, (2, 3, 9, 9))
    expected = jaccard_score(truth.flatten(), said.flatten(), average=None)
    assert intersection_over_union(pixel_confusion(said, truth, 4)).tolist() == pytest.approx(expected.tolist())


def test_counts_of_batches_add_up():
    torch.manual_seed(0)
    truth, said = torch.randint(0, 3, (2, 4, 5, 5))
    parts = sum(pixel_confusion(s, t, 3) for s, t in zip(said, truth, strict=True))
    assert torch.equal(parts, pixel_confusion(said, truth, 3))


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="predicted: expected the shape of truth"):
        pixel_confusion(torch.zeros(2, 2).long(), torch.zeros(2, 3).long(), 2)
    with pytest.raises(ValueError, match=r"truth: expected classes 0..1, got 0..2"):
        pixel_confusion(torch.zeros(1, 2).long(), torch.tensor([[0, 2]]), 2)
