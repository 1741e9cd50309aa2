"""Worked numbers of the scores of detection and segmentation."""

import math

import pytest
import torch

from oculi.data.task_taxonomy import to_instances, to_semantic
from oculi.metrics.boundary_iou import boundary_iou
from oculi.metrics.detection import Objects, coco
from oculi.metrics.instances import PERSON_SIGMAS
from oculi.metrics.panoptic import PanopticScores, panoptic_quality
from oculi.predictions import Detections, Panoptic


def test_panoptic_quality_from_its_counts():
    """Matched with IoU .8 and .6, one false, one missed."""
    scores = PanopticScores(torch.tensor([1.4]).double(), *(torch.tensor([n]) for n in (2, 1, 1)))
    assert float(scores.quality()) == pytest.approx(0.466667, abs=1e-6)
    assert float(scores.segmentation()) == pytest.approx(0.7)
    assert float(scores.recognition()) == pytest.approx(2 / 3)


def test_panoptic_quality_of_pictures_with_those_counts():
    true = torch.tensor([[1] * 10 + [2] * 10 + [3] * 10])
    said = torch.tensor([[1] * 8 + [0] * 2 + [2] * 6 + [0] * 4 + [0] * 7 + [3] * 3])
    one, two = (Panoptic(m, torch.zeros(3).long(), torch.ones(3)) for m in (said, true))
    assert float(panoptic_quality([one], [two], 1).quality()) == pytest.approx(0.466667, abs=1e-6)


def test_panoptic_is_semantic_and_instance_by_projection():
    scene = Panoptic(torch.tensor([[1, 2, 2, 3]]), torch.tensor([1, 1, 0]), torch.ones(3))
    assert to_semantic(scene).semantic.tolist() == [[1, 1, 1, 0]]
    assert to_instances(scene).masks.tolist() == [[[True, False, False, False]], [[False, True, True, False]]]


def test_object_keypoint_similarity():
    """Each of 17 points off by 2 s σ √2 gives exp(-1) = .37: wrong at .5, right at a threshold of .36."""
    place = torch.rand(1, 17, 2).double() * 30
    away = 2 * 30 * torch.tensor(PERSON_SIGMAS).double() * math.sqrt(2)
    box, kind = torch.tensor([[0.0, 0, 30, 30]]).double(), torch.tensor([0])
    seen = torch.full((1, 17, 1), 2.0).double()
    truth = Objects(box, kind, keypoints=torch.cat([place, seen], -1))
    moved = place + torch.stack([away, torch.zeros(17).double()], -1)
    answer = Detections(box, torch.ones(1), kind, keypoints=torch.cat([moved, seen], -1))
    scores = coco([answer], [truth], by="keypoints", thresholds=(0.36, 0.37, 0.5))
    assert [scores.average_recall(threshold=t) for t in (0.36, 0.37, 0.5)] == [1, 0, 0]


def test_boundary_iou_of_shifted_squares():
    """Rings of 12 pixels that share 6 of 18, where the squares share 12 of 20."""
    a, b = torch.zeros(2, 9, 9, dtype=torch.bool)
    a[2:6, 2:6], b[2:6, 3:7] = True, True
    assert float(boundary_iou(a, b, 1)) == pytest.approx(1 / 3)
    assert float(boundary_iou(a, b, 9)) == pytest.approx(0.6)
