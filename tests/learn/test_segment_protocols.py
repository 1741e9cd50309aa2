"""The protocols of panoptic maps, masks and keypoints on answers whose quality is known."""

import pytest
import torch

from oculi.data.datasets import Splits
from oculi.data.sources import open_data
from oculi.data.task_taxonomy import true_panoptic
from oculi.input_contract import InputContract
from oculi.learn.evaluation import evaluate
from oculi.predictions import Detections, Masks, Panoptic, Segmentation
from oculi.system import System
from oculi.types import Sample

SIZE = 32


class KnowsSegments(System):
    """Answers with the truth, but for objects of class `wrong`, which it calls background."""

    answer = Panoptic

    def __init__(self, wrong: int = -1):
        super().__init__(InputContract(SIZE, SIZE))

    def predict(self, batch):
        answers = []
        for i, panoptic in enumerate(batch.panoptic):
            labels = None if batch.labels is None else batch.labels[i]
            whole = true_panoptic(panoptic, labels, None if batch.semantic is None else batch.semantic[i])
            gone = (whole.labels == self.config["wrong"]).nonzero()[:, 0] + 1
            background = int((whole.labels == 0).nonzero()[0]) + 1
            merged = whole.panoptic.masked_fill(torch.isin(whole.panoptic, gone), background)
            answers.append(Panoptic(merged, whole.labels, whole.scores))
        return answers


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_panoptic_scores_of_known_answers(task):
    world = open_data("world", task=task, fields=["panoptic"], size=SIZE, train=1, validation=1, test=40)
    perfect = evaluate(KnowsSegments(), world)
    assert {"pq", "sq", "rq", "pq_things", "sq_things", "pq_stuff", "rq_stuff", "miou", "pq_background"} <= set(perfect)
    assert all(value == pytest.approx(1) for value in perfect.values())
    spoilt = evaluate(KnowsSegments(wrong=1), world)
    name = (world.class_names[1:] if task == "segmentation" else world.class_names)[0]
    assert spoilt[f"pq_{name}"] == 0
    assert spoilt["pq_things"] == pytest.approx(4 / 5)
    assert spoilt["pq_background"] == spoilt["pq_stuff"] < 1
    assert spoilt["miou"] < 5 / 6


class KnowsMasks(System):
    """Finds the first object of each picture exactly, and a picture-wide mask that it thinks better of if `vain`."""

    answer = Masks

    def __init__(self, vain: bool = False):
        super().__init__(InputContract(SIZE, SIZE))

    def predict(self, batch):
        whole = torch.ones(1, SIZE, SIZE, dtype=torch.bool)
        scores = torch.tensor([0.5, 0.9 if self.config["vain"] else 0.1])
        return [Masks(torch.cat([masks[:1], whole]), scores[-1 - min(1, len(masks)) :]) for masks in batch.masks]


def test_masks_found_unasked():
    halves = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    halves[0, :8], halves[1, 16:] = True, True
    samples = [Sample(image=torch.zeros(3, SIZE, SIZE), masks=m) for m in (halves, halves[:0])]
    splits = Splits(samples, samples, samples)
    scores = evaluate(KnowsMasks(), splits, "masks")
    assert scores == pytest.approx({"masks": 1.5, "best_iou": 0.75, "top_iou": 1, "recall50": 1, "recall75": 0.5})
    assert evaluate(KnowsMasks(vain=True), splits, "masks")["top_iou"] == pytest.approx(0.5)


class KnowsPoints(System):
    """The true boxes with their keypoints, `off` pixels to the right."""

    answer = Detections

    def __init__(self, off: float = 0.0):
        super().__init__(InputContract(SIZE, SIZE))

    def predict(self, batch):
        shift = torch.tensor([self.config["off"], 0.0, 0.0])
        rows = zip(batch.boxes, batch.labels, batch.keypoints, strict=True)
        return [Detections(b, torch.ones(len(b)), k, keypoints=p + shift) for b, k, p in rows]


def test_keypoints_are_scored_where_both_sides_have_them():
    boxes = torch.tensor([[2.0, 2, 22, 22]])
    for points in (17, 4):
        places = torch.cat([2 + 20 * torch.rand(1, points, 2), torch.full((1, points, 1), 2.0)], -1)
        one = Sample(image=torch.zeros(3, SIZE, SIZE), boxes=boxes, labels=torch.tensor([0]), keypoints=places)
        splits = Splits([one], [one], [one], ["thing"])
        right, off = (evaluate(KnowsPoints(off), splits) for off in (0.0, 1.5))
        assert right["oks_map"] == right["oks_map50"] == right["oks_map75"] == right["map"] == pytest.approx(1)
        assert off["oks_map"] < 1 == pytest.approx(off["map"])


class KnowsClasses(System):
    """The true classes of pixels, moved `off` pixels down."""

    answer = Segmentation

    def __init__(self, off: int = 0):
        super().__init__(InputContract(SIZE, SIZE))

    def predict(self, batch):
        return [Segmentation(one.roll(self.config["off"], 0)) for one in batch.semantic]


def test_boundary_iou_falls_faster_than_iou():
    world = open_data("world", task="segmentation", size=SIZE, train=1, validation=1, test=20)
    assert evaluate(KnowsClasses(), world)["boundary_iou"] == 1
    moved = evaluate(KnowsClasses(off=1), world)
    assert moved["boundary_iou"] < moved["miou"] < 1
