"""Soft-NMS against the paper's loop written out, its limits, several sets at once, what it is for, bad input."""

import math

import pytest
import torch

from oculi.ops.boxes import box_iou
from oculi.ops.nms import greedy_nms
from oculi.ops.soft_nms import soft_nms


def random_boxes(n, seed):
    g = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(n, 2, generator=g) * 20, torch.rand(n, 2, generator=g) * 12
    return torch.cat([corner, corner + size], 1), torch.rand(n, generator=g)


def by_hand(boxes, scores, decay):
    """Figure 2 of the paper."""
    left = {i: float(s) for i, s in enumerate(scores)}
    answer = []
    while left:
        best = max(left, key=lambda i: left[i])
        answer.append((best, left.pop(best)))
        for i in left:
            left[i] *= decay(float(box_iou(boxes[best][None], boxes[i][None])))
    return answer


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_equals_the_papers_loop(seed, method):
    boxes, scores = random_boxes(15, seed)
    decay = {"linear": lambda o: 1 - o if o > 0.3 else 1.0, "gaussian": lambda o: math.exp(-o * o / 0.5)}[method]
    index, left = soft_nms(boxes, scores, method=method)
    expected = by_hand(boxes, scores, decay)
    assert index.tolist() == [i for i, _ in expected]
    torch.testing.assert_close(left, torch.tensor([s for _, s in expected]))
    assert (left.diff() <= 0).all()


def test_worked_numbers():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3], [8, 8, 9, 9]])  # IoU 0.75, 0
    index, left = soft_nms(boxes, torch.tensor([0.9, 0.8, 0.1]))
    assert index.tolist() == [0, 1, 2]
    torch.testing.assert_close(left, torch.tensor([0.9, 0.8 * math.exp(-0.5625 / 0.5), 0.1]))


def test_a_narrow_gaussian_is_hard_nms_at_zero():
    boxes, scores = random_boxes(30, 7)
    index, left = soft_nms(boxes, scores, sigma=1e-9)
    assert index[left > 1e-6].tolist() == greedy_nms(boxes, scores, 0.0).tolist()


def test_labels_do_not_meet_and_the_best_few_come_first():
    boxes, scores = random_boxes(20, 3)
    labels = torch.arange(20) % 2
    index, left = soft_nms(boxes, scores, labels)
    for k in (0, 1):
        own = (labels == k).nonzero()[:, 0]
        alone, alone_left = soft_nms(boxes[own], scores[own])
        assert index[labels[index] == k].tolist() == own[alone].tolist()
        torch.testing.assert_close(left[labels[index] == k], alone_left)
    few, few_left = soft_nms(boxes, scores, labels, most=5)
    assert torch.equal(few, index[:5])
    assert torch.equal(few_left, left[:5])


def test_several_sets_at_once():
    many = [random_boxes(8, seed) for seed in range(6)]
    boxes, scores = (torch.stack(part).unflatten(0, (2, 3)) for part in zip(*many, strict=True))
    index, left = soft_nms(boxes, scores)
    for k, (b, s) in enumerate(many):
        alone, alone_left = soft_nms(b, s)
        assert torch.equal(index[k // 3, k % 3], alone)
        torch.testing.assert_close(left[k // 3, k % 3], alone_left)
    none, nothing = soft_nms(boxes[..., :0, :], scores[..., :0])
    assert none.shape == nothing.shape == (2, 3, 0)


def test_two_objects_in_front_of_one_another_survive():
    boxes = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [0.2, 0, 10.2, 10]])  # two objects, one found twice
    scores = torch.tensor([0.9, 0.85, 0.8])
    assert len(greedy_nms(boxes, scores, 0.5)) == 1
    index, left = soft_nms(boxes, scores)
    assert index.tolist() == [0, 1, 2]
    assert float(left[1]) > 0.45 > 2 * float(left[2])


def test_bad_input_is_named():
    boxes, scores = random_boxes(3, 0)
    with pytest.raises(ValueError, match=r"method.*'hard'"):
        soft_nms(boxes, scores, method="hard")
    with pytest.raises(ValueError, match="sigma"):
        soft_nms(boxes, scores, sigma=0.0)
    with pytest.raises(ValueError, match="threshold"):
        soft_nms(boxes, scores, threshold=2.0)
