"""Scores of detections as counted by hand, VOC's rule against a plain loop, and bad input."""

import math

import numpy as np
import pytest
import torch

from oculi.metrics.detection import Objects, coco, eleven_point, found_objects, interpolated, voc
from oculi.predictions import Detections


def found(*rows):
    """Rows of x1, y1, x2, y2, score, label."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].long())


def real(*rows, crowd=None):
    """Rows of x1, y1, x2, y2, label."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return Objects(table[:, :4], table[:, 4].long(), None if crowd is None else torch.tensor(crowd))


def test_perfect_and_hopeless_answers():
    truth = [real((0, 0, 10, 10, 0), (20, 20, 40, 40, 1)), real((5, 5, 15, 15, 1))]
    perfect = [found((0, 0, 10, 10, 0.9, 0), (20, 20, 40, 40, 0.2, 1)), found((5, 5, 15, 15, 0.6, 1))]
    assert coco(perfect, truth).average_precision() == 1
    assert voc(perfect, truth).tolist() == [1, 1]
    nothing = coco([found(), found()], truth)
    assert nothing.average_precision() == nothing.average_recall() == 0
    assert voc([found(), found()], truth).tolist() == [0, 0]


def test_as_worked_by_hand():
    """Of two objects the first is found, then a false one, then the second: precisions 1, 1/2, 2/3 at recalls 1/2, 1/2, 1."""
    truth = [real((0, 0, 10, 10, 0), (20, 20, 30, 30, 0))]
    answer = [found((0, 0, 10, 10, 0.9, 0), (40, 40, 50, 50, 0.8, 0), (20, 20, 30, 30, 0.7, 0))]
    assert coco(answer, truth).average_precision() == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert coco(answer, truth).average_recall(1) == 0.5
    assert voc(answer, truth).tolist() == pytest.approx([(6 * 1 + 5 * 2 / 3) / 11])


def test_a_second_detection_of_one_object_is_false():
    truth = [real((0, 0, 10, 10, 0))]
    twice = [found((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 0))]
    assert coco(twice, truth).average_precision() == pytest.approx(1)
    wrong_first = [found((0, 0, 10, 9, 0.9, 0), (0, 0, 10, 10, 0.8, 0))]
    assert coco(wrong_first, truth).average_precision(0.95) == pytest.approx(0.5)
    assert coco(wrong_first, truth).average_precision(0.5) == pytest.approx(1)


def test_what_lies_on_a_crowd_is_neither_right_nor_wrong():
    truth = [real((0, 0, 10, 10, 0), (30, 30, 60, 60, 0), crowd=[False, True])]
    answer = [found((31, 31, 35, 35, 0.9, 0), (40, 40, 45, 45, 0.8, 0), (0, 0, 10, 10, 0.7, 0))]
    assert coco(answer, truth).average_precision() == pytest.approx(1)
    assert coco([found()], truth).average_recall() == 0
    assert found_objects(answer, truth)[0][0]


def test_classes_without_objects_are_undefined():
    scores = coco([found((0, 0, 9, 9, 0.9, 2))], [real((0, 0, 9, 9, 0))], classes=3)
    assert [math.isnan(v) for v in scores.per_class().tolist()] == [False, True, True]
    assert scores.average_precision() == 0
    nothing = coco([found()], [real()], classes=2)
    assert math.isnan(nothing.average_precision())
    assert math.isnan(coco([], []).average_precision())


def test_found_objects_are_those_with_a_confident_match():
    truth = [real((0, 0, 10, 10, 0), (20, 20, 30, 30, 1)), real(), real((0, 0, 5, 5, 0))]
    answer = [found((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.2, 1)), found(), found((0, 0, 5, 5, 0.9, 1))]
    assert [one.tolist() for one in found_objects(answer, truth)] == [[True, False], [], [False]]
    assert found_objects(answer, truth, least=0.1)[0].tolist() == [True, True]


def test_interpolation_looks_to_the_right():
    recall, precision = torch.tensor([0.2, 0.4, 0.4, 0.6]), torch.tensor([1.0, 0.5, 0.4, 0.8])
    at = interpolated(recall, precision, torch.tensor([0.0, 0.2, 0.3, 0.6, 0.7]))
    assert at.tolist() == pytest.approx([1, 1, 0.8, 0.8, 0])
    assert eleven_point(torch.empty(0), torch.empty(0)) == 0


def plain_voc(answers, truths, k):
    """The development kit's loop: each detection looks at the object that it overlaps most."""
    rows = [
        (float(s), i, b) for i, a in enumerate(answers) for b, s, lab in zip(a.boxes, a.scores, a.labels) if lab == k
    ]
    rows.sort(key=lambda row: -row[0])
    objects = [(t.boxes[t.labels == k], t.crowd[t.labels == k]) for t in truths]
    seen, right, wrong, total = set(), [], [], sum(int((~hard).sum()) for _, hard in objects)
    for _, i, box in rows:
        boxes, hard = objects[i]
        shared = (torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])).clamp_min(0).prod(1)
        iou = shared / ((box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - shared)
        j = int(iou.argmax()) if len(iou) else -1
        if j >= 0 and iou[j] >= 0.5 and hard[j]:
            continue
        hit = j >= 0 and bool(iou[j] >= 0.5) and (i, j) not in seen
        seen.add((i, j) if hit else None)
        right.append(hit)
        wrong.append(not hit)
    right, wrong = np.cumsum(right), np.cumsum(wrong)
    precision, recall = right / (right + wrong), right / max(total, 1)
    levels = [max(precision[recall >= r], default=0) for r in np.arange(11) / 10]
    return float(np.mean(levels)) if total else math.nan


def test_voc_equals_the_plain_loop():
    for seed in range(20):
        torch.manual_seed(seed)
        truths, answers = [], []
        for _ in range(3):
            n, m = int(torch.randint(0, 6, ())), int(torch.randint(0, 4, ()))
            low = torch.randint(0, 30, (n, 2)).double()
            boxes = torch.cat([low, low + torch.randint(4, 20, (n, 2))], 1)
            truths.append(Objects(boxes, torch.randint(0, 2, (n,)), torch.rand(n) < 0.2))
            more = torch.cat(
                [boxes, boxes + torch.randint(-2, 3, (n, 4)), torch.rand(m, 4) * 9 + torch.tensor([0, 0, 9, 9])]
            )
            answers.append(Detections(more, torch.rand(len(more)), torch.randint(0, 2, (len(more),))))
        expected = [plain_voc(answers, truths, k) for k in range(2)]
        np.testing.assert_allclose(voc(answers, truths, 2).numpy(), expected, atol=1e-12)


@pytest.mark.unchecked
def test_bad_input_is_named():
    one, truth = found((0, 0, 9, 9, 0.9, 0)), real((0, 0, 9, 9, 0))
    with pytest.raises(ValueError, match="predictions: expected one per truth, 1, got 2"):
        coco([one, one], [truth])
    with pytest.raises(ValueError, match=r"truths: expected labels 0..0"):
        coco([one], [real((0, 0, 9, 9, 1))], classes=1)
    with pytest.raises(ValueError, match="most, thresholds"):
        coco([one], [truth], most=(0,))
    with pytest.raises(ValueError, match="by: expected boxes, masks or keypoints"):
        coco([one], [truth], by="points")
    with pytest.raises(ValueError, match="masks in each record"):
        coco([one], [truth], by="masks")
    with pytest.raises(ValueError, match="NaN"):
        coco([found((0, 0, 9, 9, math.nan, 0))], [truth])
    with pytest.raises(ValueError, match="as many boxes as labels"):
        coco([Detections(torch.zeros(2, 4), torch.zeros(1), torch.zeros(2).long())], [truth])
    with pytest.raises(ValueError, match="threshold: expected one of"):
        coco([one], [truth]).average_precision(0.33)


def test_curves_give_the_score_from_which_on_a_recall_is_reached():
    truth = [real((0, 0, 10, 10, 0), (20, 20, 30, 30, 0))]
    answer = [found((0, 0, 10, 10, 0.9, 0), (40, 40, 50, 50, 0.8, 0), (20, 20, 30, 30, 0.7, 0))]
    recall, precision, score = coco(answer, truth).curve(0)
    assert [float(recall[k]) for k in (0, 50, 100)] == pytest.approx([0, 0.5, 1])
    assert [float(precision[k]) for k in (0, 50, 51, 100)] == pytest.approx([1, 1, 2 / 3, 2 / 3])
    assert [float(score[k]) for k in (0, 50, 51, 100)] == pytest.approx([0.9, 0.9, 0.7, 0.7])


def people(points, visible=2.0):
    places = torch.tensor(points)[None]
    return torch.cat([places, torch.full((*places.shape[:2], 1), visible)], -1)


def test_people_without_labelled_points_are_ignored():
    box = torch.tensor([[0.0, 0, 10, 10]])
    one, other = people([[2.0, 2.0]] * 17), people([[50.0, 50.0]] * 17)
    answer = Detections(
        torch.cat([box, box]), torch.tensor([0.9, 0.8]), torch.tensor([0, 0]), keypoints=torch.cat([one, other])
    )
    truth = Objects(
        torch.cat([box, box + 45]), torch.tensor([0, 0]), keypoints=torch.cat([one, other * torch.tensor([1, 1, 0])])
    )
    scores = coco([answer], [truth], by="keypoints")
    assert scores.average_precision() == pytest.approx(1)
    assert list(scores.summary())[:3] == ["AP", "AP50", "AP75"]
    assert len(scores.summary()) == 10
    assert len(coco([answer], [truth]).summary()) == 12


@pytest.mark.unchecked
def test_bad_keypoints_and_questions_are_named():
    box, kind = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0])
    answer = Detections(box, torch.ones(1), kind, keypoints=people([[1.0, 1.0]] * 3))
    truth = Objects(box, kind, keypoints=people([[1.0, 1.0]] * 3))
    with pytest.raises(ValueError, match="sigmas: expected one for each of 3 keypoints, got none"):
        coco([answer], [truth], by="keypoints")
    with pytest.raises(ValueError, match="sigmas: expected 3 positive numbers"):
        coco([answer], [truth], by="keypoints", sigmas=[0.1, 0.1])
    with pytest.raises(ValueError, match=r"predictions: expected keypoints `n x \[2, 3\]`"):
        coco([answer], [Objects(box, kind, keypoints=people([[1.0, 1.0]] * 2))], by="keypoints")
    with pytest.raises(ValueError, match="keypoints in each record"):
        coco([answer], [Objects(box, kind)], by="keypoints")
    with pytest.raises(ValueError, match="truths: expected as many keypoints in each record"):
        coco([answer] * 2, [truth, Objects(box, kind, keypoints=people([[1.0, 1.0]] * 2))], by="keypoints")
    scores = coco([answer], [truth])
    with pytest.raises(ValueError, match="area: expected one of all, small, medium, large, got 'huge'"):
        scores.average_precision(area="huge")
    with pytest.raises(ValueError, match=r"most: expected one of \(1, 10, 100\), got 5"):
        scores.average_recall(5)
    with pytest.raises(ValueError, match=r"label: expected 0..0, got 3"):
        scores.curve(3)
    mask = torch.ones(1, 4, 4).bool()
    with pytest.raises(ValueError, match="predictions: expected masks of 16 pixels as in truths, got 12"):
        coco([Detections(box, torch.ones(1), kind, mask[:, 1:])], [Objects(box, kind, masks=mask)], by="masks")
