"""The detection protocol on answers whose quality is known, and slices of objects with a planted fault."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from oculi.data.datasets import Splits
from oculi.data.sources import open_data
from oculi.input_contract import InputContract
from oculi.learn.evaluation import evaluate
from oculi.learn.protocols.detection import answers, objects
from oculi.learn.slices import slice_scores
from oculi.predictions import Detections
from oculi.system import System
from oculi.types import Sample


class Knows(System):
    """Answers with the truth, missing objects of up to `side` pixels with a chance of their own."""

    answer = Detections

    def __init__(
        self, miss: float = 0.0, miss_small: float = 0.0, seed: int = 0, side: float = 12, masks: bool = False
    ):
        super().__init__(InputContract(64, 64))
        self.generator = torch.Generator().manual_seed(seed)

    def predict(self, batch):
        answers = []
        for i, (boxes, labels) in enumerate(zip(batch.boxes, batch.labels, strict=True)):
            small = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt() <= self.config["side"]
            miss = torch.where(small, self.config["miss_small"], self.config["miss"])
            kept = torch.rand(len(boxes), generator=self.generator) >= miss
            masks = batch.masks[i][kept] if self.config["masks"] else None
            answers.append(Detections(boxes[kept], torch.full((int(kept.sum()),), 0.9), labels[kept], masks))
        return answers


@pytest.fixture(scope="module")
def world():
    return open_data("world", train=1, validation=1, test=200)


def test_scores_of_known_answers(world):
    perfect = evaluate(Knows(masks=True), world)
    names = {"map", "map50", "map75", "map_small", "map_medium", "map_large", "recall", "mask_map", "mask_map50"}
    assert names | {f"ap_{name}" for name in world.class_names} <= set(perfect)
    assert all(value == pytest.approx(1) for value in perfect.values())
    blind = evaluate(Knows(miss_small=1.0), world)
    assert (blind["map_small"], blind["map_large"]) == pytest.approx((0, 1))
    assert 0.5 < blind["map"] < 0.9
    assert "mask_map" not in blind


def test_crowd_regions_are_left_out_of_score_and_slices():
    image, boxes = torch.zeros(3, 64, 64), torch.tensor([[0.0, 0, 9, 9], [20, 20, 60, 60]])
    sample = Sample(image=image, boxes=boxes, labels=torch.tensor([0, 0]), crowd=torch.tensor([False, True]))
    splits = Splits([sample], [sample], [sample], ["thing"])
    assert evaluate(Knows(miss=1.0), splits)["map"] == pytest.approx(1)
    assert len(objects(*answers(Knows(), splits.test))["right"]) == 1


def test_data_without_boxes_is_named(world):
    with pytest.raises(ValueError, match="no boxes"):
        answers(Knows(), [Sample(image=torch.zeros(3, 64, 64))])


def flagged(found, truths):
    table = objects(found, truths)
    edges = [0, 8, 12, 16, 64]
    members = {f"{low} to {high}": (table["side"] > low) & (table["side"] <= high) for low, high in pairwise(edges)}
    members |= {f"class {k}": table["label"] == k for k in range(5)}
    return [s.name for s in slice_scores(table["right"], members) if s.worse]


def test_a_planted_failing_slice_is_flagged_first_and_none_without_a_fault():
    """Classes that are often small may be flagged with the smallest objects, which stay the worst slice."""
    small = open_data("world", train=1, validation=1, test=200, radius=[0.3, 1.0])
    small = [replace(small.test[i], masks=None) for i in range(200)]
    planted = [flagged(*answers(Knows(0.1, 0.5, seed, side=8), small)) for seed in range(20)]
    assert sum(names[:1] == ["0 to 8"] for names in planted) >= 19
    healthy = [flagged(*answers(Knows(0.1, 0.1, seed), small)) for seed in range(20)]
    assert sum(not names for names in healthy) >= 19
