"""Panoptic quality by hand and by its rules of void, and bad input."""

import math

import pytest
import torch

from oculi.metrics.panoptic import PanopticScores, panoptic_quality
from oculi.predictions import Panoptic


def row(segments, labels):
    """A picture of one row."""
    return Panoptic(torch.tensor([segments]), torch.tensor(labels).long(), torch.ones(len(labels)))


def test_a_perfect_answer_whatever_the_numbers_of_its_segments():
    true, said = row([1, 1, 2, 2, 3], [0, 1, 1]), row([3, 3, 1, 1, 2], [1, 1, 0])
    assert panoptic_quality([said], [true], 3).summary() == {"pq": 1.0, "sq": 1.0, "rq": 1.0}
    each = panoptic_quality([said], [true], 3).quality().tolist()
    assert each[:2] == [1, 1]
    assert math.isnan(each[2])


def test_as_worked_by_hand():
    """Truth: five pixels of one object, five of another. Answer: four right of the first (IoU 4/5), the second's pixels
    named otherwise."""
    true, said = row([1] * 5 + [2] * 5, [0, 1]), row([1] * 4 + [0] + [2] * 5, [0, 2])
    scores = panoptic_quality([said], [true], 3)
    assert scores.quality().tolist() == pytest.approx([0.8, 0, 0])
    assert [v.tolist() for v in (scores.matched, scores.false, scores.missed)] == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert scores.summary(stuff=[0]) == pytest.approx(
        {"pq": 0.8 / 3, "sq": 0.8 / 3, "rq": 1 / 3, "pq_things": 0, "sq_things": 0, "rq_things": 0,
         "pq_stuff": 0.8, "sq_stuff": 0.8, "rq_stuff": 1}
    )  # fmt: skip


def test_half_is_not_enough():
    assert panoptic_quality([row([1, 0], [0])], [row([1, 1], [0])], 1).missed.tolist() == [1]
    assert panoptic_quality([row([1, 1, 0], [0])], [row([1, 1, 1], [0])], 1).overlap.tolist() == pytest.approx([2 / 3])


def test_void_pixels_do_not_count():
    true = row([1, 1, 0, 0, 0], [0])
    assert panoptic_quality([row([1, 1, 1, 1, 1], [0])], [true], 1).quality().tolist() == [1]
    outside = row([1, 1, 2, 2, 0], [0, 0])
    assert panoptic_quality([outside], [true], 1).false.tolist() == [0]
    mostly_inside = row([1, 2, 2, 0, 0], [0, 0])  # half void: false, and neither has more than half of the object
    assert panoptic_quality([mostly_inside], [true], 1).false.tolist() == [2]


def test_pictures_add_up_and_empty_ones_add_nothing():
    true, said = row([1, 1, 2], [0, 1]), row([1, 1, 1], [0])
    one, two = panoptic_quality([said], [true], 2), panoptic_quality([said, said], [true, true], 2)
    assert two.matched.tolist() == [2 * n for n in one.matched.tolist()]
    torch.testing.assert_close(one.quality(), two.quality(), equal_nan=True)
    nothing = panoptic_quality([row([0, 0], [])], [row([0, 0], [])], 2)
    assert nothing.quality().isnan().all()
    assert panoptic_quality([], [], 1).quality().isnan().all()


def test_quality_is_recognition_times_segmentation():
    torch.manual_seed(0)
    counts = torch.randint(0, 5, (3, 50))
    scores = PanopticScores(counts[0] * (0.5 + torch.rand(50).double() / 2), *counts)
    torch.testing.assert_close(scores.quality(), scores.recognition() * scores.segmentation(), equal_nan=True)


@pytest.mark.unchecked
def test_bad_input_is_named():
    one = row([1, 1], [0])
    with pytest.raises(ValueError, match="predictions: expected one per truth, 1, got 0"):
        panoptic_quality([], [one], 1)
    with pytest.raises(ValueError, match=r"predictions: expected a map of the truth's shape \(1, 2\)"):
        panoptic_quality([row([1], [0])], [one], 1)
    with pytest.raises(ValueError, match=r"predictions: expected segments 0..1, one label each, got 1..2"):
        panoptic_quality([row([1, 2], [0])], [one], 1)
    with pytest.raises(ValueError, match=r"truths: expected classes 0..0, got \[3\]"):
        panoptic_quality([one], [row([1, 1], [3])], 1)
