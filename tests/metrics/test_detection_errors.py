"""Planted errors of each kind are counted exactly, and cost what mending them by hand gives."""

import numpy as np
import pytest
import torch

from oculi.metrics.detection import Objects, coco
from oculi.metrics.detection_errors import KINDS, detection_errors
from oculi.predictions import Detections

BOX = torch.tensor([10.0, 10, 30, 30])
SHIFTED = {"right": 0.0, "near": 10.0, "away": 100.0}  # along x: IoU 1, 1/3, 0


def planted(seed, pictures=40):
    """Pictures of one object with one answer or none each, and the kind of error planted there."""
    rng = np.random.default_rng(seed)
    found, truths, kinds = [], [], []
    for _ in range(pictures):
        kind = str(rng.choice([*KINDS, "right"]))
        label = int(rng.integers(0, 3))
        place = {"localisation": "near", "both": "near", "background": "away"}.get(kind, "right")
        said = (label + 1) % 3 if kind in ("classification", "both") else label
        rows = [] if kind == "missed" else [(BOX + torch.tensor([SHIFTED[place], 0, SHIFTED[place], 0]), said)]
        if kind in ("duplicate", "background"):  # beside the right answer
            rows.insert(0, (BOX, label))
        score = torch.from_numpy(np.sort(0.4 + 0.6 * rng.random(len(rows)))[::-1].copy())
        boxes = torch.stack([box for box, _ in rows]) if rows else torch.zeros(0, 4)
        found.append(Detections(boxes, score, torch.tensor([k for _, k in rows]).long()))
        truths.append(Objects(BOX[None], torch.tensor([label])))
        kinds.append(kind)
    return found, truths, kinds


@pytest.mark.parametrize("seed", range(4))
def test_planted_errors_are_counted_exactly(seed):
    found, truths, kinds = planted(seed)
    errors = detection_errors(found, truths, 3)
    uncovered = kinds.count("missed") + kinds.count("both")  # a badly placed answer of the wrong class means no object
    assert errors.counts == {name: kinds.count(name) for name in KINDS} | {"missed": uncovered}
    assert errors.ap50 == pytest.approx(coco(found, truths, 3).average_precision(0.5), abs=1e-12)
    said = {(picture, KINDS[kind]) for picture, _, kind in errors.false.tolist()}
    assert said == {(i, kind) for i, kind in enumerate(kinds) if kind not in ("missed", "right")}


def test_costs_are_the_gain_of_mending():
    found, truths, kinds = planted(7, 60)
    errors = detection_errors(found, truths, 3)
    for name in KINDS:
        mended, asked = list(found), list(truths)
        for i, kind in enumerate(kinds):
            if kind == name and name in ("localisation", "classification"):
                mended[i] = Detections(BOX[None], found[i].scores, truths[i].labels)
            elif kind == name and name in ("duplicate", "background", "both"):
                mended[i] = Detections(*(getattr(found[i], f)[:-1] for f in ("boxes", "scores", "labels")))
            elif name == "missed" and kind in ("missed", "both"):
                asked[i] = Objects(BOX[None], truths[i].labels, torch.tensor([True]))
                mended[i] = found[i]
        if name == "missed":  # a crowd would excuse what lies near it: compare where nothing does
            keep = [i for i, kind in enumerate(kinds) if kind != "both"]
            some, real = [found[i] for i in keep], [truths[i] for i in keep]
            fewer = detection_errors(some, real, 3)
            expected = coco(some, [asked[i] for i in keep], 3).average_precision(0.5) - fewer.ap50
            assert fewer.costs["missed"] == pytest.approx(expected, abs=1e-12)
            continue
        expected = coco(mended, asked, 3).average_precision(0.5) - errors.ap50
        assert errors.costs[name] == pytest.approx(expected, abs=1e-12)


def test_of_two_errors_that_mean_one_object_the_better_is_mended():
    near, nearer = BOX + torch.tensor([10.0, 0, 10, 0]), BOX + torch.tensor([8.0, 0, 8, 0])
    found = [Detections(torch.stack([near, nearer]), torch.tensor([0.9, 0.8]), torch.tensor([0, 0]))]
    errors = detection_errors(found, [Objects(BOX[None], torch.tensor([0]))], 1)
    assert errors.counts["localisation"] == 2
    assert errors.counts["missed"] == 0
    assert (errors.ap50, errors.costs["localisation"], errors.costs["missed"]) == (0, pytest.approx(1), 0)


def test_masks_crowds_and_the_confusion_matrix():
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[0, :10] = True
    whole = torch.tensor([[0.0, 0, 20, 20]])
    found = [Detections(whole, torch.tensor([0.9]), torch.tensor([1]), mask)]
    assert detection_errors(found, [Objects(whole, torch.tensor([1]), masks=~mask)], 2).counts["duplicate"] == 0
    by_masks = detection_errors(found, [Objects(whole, torch.tensor([1]), masks=~mask)], 2, by="masks")
    assert (by_masks.counts["background"], by_masks.counts["missed"]) == (1, 1)
    crowd = detection_errors(found, [Objects(whole, torch.tensor([1]), torch.tensor([True]))], 2)
    assert sum(crowd.counts.values()) == crowd.confusion.sum() == 0
    found, truths, kinds = planted(3)
    table = detection_errors(found, truths, 3).confusion
    assert int(table[:3, :3].diagonal().sum()) == sum(k in ("right", "duplicate", "background") for k in kinds)
    assert int(table[:3, 3].sum()) == sum(k in ("missed", "localisation", "both") for k in kinds)
    assert int(table[3].sum()) == sum(k in ("localisation", "both", "duplicate", "background") for k in kinds)
    assert int(table[:3].sum()) == len(truths)


@pytest.mark.unchecked
def test_nothing_and_bad_input():
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    nothing = detection_errors([empty], [Objects(torch.zeros(0, 4), torch.zeros(0).long())], 2)
    assert sum(nothing.counts.values()) == 0
    assert np.isnan(nothing.ap50)
    truth = Objects(BOX[None], torch.tensor([2]))
    with pytest.raises(ValueError, match=r"truths: expected labels 0..1"):
        detection_errors([empty], [truth], 2)
    with pytest.raises(ValueError, match="background, threshold: expected 0 < background"):
        detection_errors([empty], [truth], 3, background=0.6)
    with pytest.raises(ValueError, match="by: expected boxes or masks"):
        detection_errors([empty], [truth], 3, by="keypoints")
