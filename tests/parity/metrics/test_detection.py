"""Average precision against pycocotools on thousands of random pictures: crowds, empty pictures, ties, thresholds met
exactly, area ranges, few detections allowed, masks, keypoints of which none is labelled. Every number to 1e-9."""

import contextlib
import io

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from oculi.metrics.detection import COCO_AREAS, Objects, coco
from oculi.predictions import Detections

SMALL = {"small": (0.0, 64.0), "medium": (64.0, 256.0), "large": (256.0, 1e10)}
GRIDS = (1.0, 0.5, 2.0, 0.0)  # on a coarse grid overlaps tie and meet thresholds exactly; 0: anywhere


def boxes_of(rng, n, grid):
    low, size = rng.uniform(0, 40, (n, 2)), rng.uniform(2, 24, (n, 2))
    if grid:
        low, size = np.round(low / grid) * grid, np.maximum(np.round(size / grid), 1) * grid
    return np.concatenate([low, low + size], 1)


def picture(rng, classes, grid, tied):
    """A few objects, some crowds, some with an area of their own; copies of them, shifted or not, and boxes anywhere."""
    n = 0 if rng.random() < 0.2 else int(rng.integers(0, 8))
    real = boxes_of(rng, n, grid)
    real[: n // 3] = real[n - n // 3 :][: n // 3] if rng.random() < 0.2 else real[: n // 3]  # the same box twice
    copies = real[rng.integers(0, n, int(rng.integers(0, 3 * n)))] if n else np.zeros((0, 4))
    shift = rng.integers(-2, 3, copies.shape) * (grid or rng.random())
    near = copies + np.where(rng.random(copies.shape) < 0.5, shift, 0)
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    said = np.concatenate([near, boxes_of(rng, int(rng.integers(0, 5)), grid)])
    area = (real[:, 2:] - real[:, :2]).prod(1) * (1 if rng.random() < 0.6 else rng.uniform(0.3, 1, n))
    labels = [torch.from_numpy(rng.integers(0, classes, len(x))) for x in (real, said)]
    score = torch.from_numpy(rng.integers(0, 6, len(said)) / 5 if tied else rng.random(len(said)))
    crowd = torch.from_numpy(rng.random(n) < 0.25)
    truth = Objects(torch.from_numpy(real), labels[0], crowd, torch.from_numpy(area))
    return Detections(torch.from_numpy(said), score, labels[1]), truth


def pictures(seed, count):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(1, 4))
    found, truths = zip(*[picture(rng, classes, GRIDS[seed % 4], not seed % 2) for _ in range(count)], strict=True)
    return list(found), list(truths), classes


def annotation(one, j, image, by):
    """One object or detection in COCO's words."""
    x1, y1, x2, y2 = one.boxes[j].tolist()
    row = {"image_id": image, "category_id": int(one.labels[j]) + 1}
    if isinstance(one, Objects):
        row |= {"area": float(one.area[j]), "iscrowd": int(one.crowd[j])}
    else:
        row["score"] = float(one.scores[j])
    if by == "segm":
        row["segmentation"] = coco_mask.encode(np.asfortranarray(one.masks[j].numpy().astype(np.uint8)))
    if by == "keypoints":
        row["keypoints"] = one.keypoints[j].flatten().tolist()
        row["num_keypoints"] = int((one.keypoints[j, :, 2] > 0).sum())
    if by == "bbox" or isinstance(one, Objects):
        row["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    return row


def reference(found, truths, classes, areas, most, by="bbox", sigmas=None):
    """pycocotools' precision, recall, scores and summary, NaN for -1."""
    images = [{"id": i + 1, "height": 64, "width": 64} for i in range(len(truths))]
    real, said = (
        [annotation(one, j, i + 1, by) for i, one in enumerate(side) for j in range(len(one.labels))]
        for side in (truths, found)
    )
    for number, row in enumerate(real):
        row["id"] = number + 1
    with contextlib.redirect_stdout(io.StringIO()):
        dataset, results = COCO(), COCO()
        kinds = [{"id": k + 1, "name": str(k)} for k in range(classes)]
        dataset.dataset = {"images": images, "annotations": real, "categories": kinds}
        dataset.createIndex()
        if said:
            results = dataset.loadRes(said)
        else:
            results.dataset = {"images": images, "annotations": [], "categories": kinds}
            results.createIndex()
        run = COCOeval(dataset, results, by)
        run.params.areaRng = [[0, 1e10], *map(list, areas.values())]
        run.params.maxDets = list(most)
        if sigmas is not None:
            run.params.kpt_oks_sigmas = np.array(sigmas)
        run.evaluate()
        run.accumulate()
        run.summarize()
    occurs = (run.eval["precision"] >= 0)[:, :1]
    arrays = [np.where(run.eval[k] < 0, np.nan, run.eval[k]) for k in ("precision", "recall")]
    arrays.append(np.where(occurs, run.eval["scores"], np.nan))
    return *map(torch.from_numpy, arrays), np.where(run.stats < 0, np.nan, run.stats)


def same(ours, theirs, summary=True):
    for name, expected in zip(("precision", "recall", "score"), theirs, strict=False):
        torch.testing.assert_close(getattr(ours, name), expected, atol=1e-9, rtol=0, equal_nan=True)
    if summary:
        np.testing.assert_allclose(list(ours.summary().values()), theirs[3], atol=1e-9, rtol=0)


@pytest.mark.parametrize("seed", range(8))
def test_equals_pycocotools_on_hundreds_of_pictures(seed):
    found, truths, classes = pictures(seed, 250)
    areas = SMALL if seed % 3 else COCO_AREAS
    same(coco(found, truths, classes, areas), reference(found, truths, classes, areas, (1, 10, 100)))


def test_equals_pycocotools_on_many_small_sets():
    for seed in range(100, 180):
        found, truths, classes = pictures(seed, 1 + seed % 4)
        same(coco(found, truths, classes, SMALL), reference(found, truths, classes, SMALL, (1, 10, 100)))


def test_equals_pycocotools_with_few_detections_allowed():
    for seed in range(300, 304):
        found, truths, classes = pictures(seed, 80)
        theirs = reference(found, truths, classes, SMALL, (1, 2, 3))
        same(coco(found, truths, classes, SMALL, (1, 2, 3)), theirs, summary=False)


def test_equals_pycocotools_on_more_detections_in_a_picture_than_are_allowed():
    torch.manual_seed(0)
    low, size = torch.rand(400, 2).double() * 50, torch.rand(400, 2).double() * 12 + 1
    boxes = torch.cat([low, low + size], 1)
    found = [Detections(boxes, torch.rand(400).double(), torch.zeros(400).long())]
    real = boxes[:30] + 0.5
    area = (real[:, 2:] - real[:, :2]).prod(1)
    truths = [Objects(real, torch.zeros(30).long(), torch.arange(30) > 27, area)]
    same(coco(found, truths, 1, SMALL), reference(found, truths, 1, SMALL, (1, 10, 100)))


def test_equals_pycocotools_with_more_thresholds_and_ranges_than_fit_one_word():
    found, truths, classes = pictures(2, 60)
    areas = {str(k): (30.0 * k, 30.0 * k + 60) for k in range(9)}
    ours = coco(found, truths, classes, areas)
    for name, values in zip(
        ("precision", "recall"), reference(found, truths, classes, areas, (1, 10, 100)), strict=False
    ):
        torch.testing.assert_close(getattr(ours, name), values, atol=1e-9, rtol=0, equal_nan=True)


def test_equals_pycocotools_by_masks():
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    for seed in range(400, 404):
        found, truths, classes = pictures(seed, 60)
        for one in (*found, *truths):
            b = one.boxes[:, :, None, None]
            one.masks = ((x > b[:, 0]) & (x < b[:, 2]) & (y > b[:, 1]) & (y < b[:, 3])) & ((x + y) % 7 != 0)
            if isinstance(one, Objects):
                one.area = one.masks.flatten(1).sum(1).double()
        ours = coco(found, truths, classes, SMALL, by="masks")
        same(ours, reference(found, truths, classes, SMALL, (1, 10, 100), "segm"))


def with_keypoints(rng, answer, truth, points):
    """Points in each box, some not labelled, some objects without any; detections near those of some object."""
    n, m = len(truth.labels), len(answer.labels)
    low, high = truth.boxes[:, None, :2].numpy(), truth.boxes[:, None, 2:].numpy()
    real = low + rng.random((n, points, 2)) * (high - low)
    seen = rng.integers(0, 3, (n, points)) * (rng.random((n, 1)) > 0.25)
    base = real[rng.integers(0, n, m)] if n else rng.uniform(0, 60, (m, points, 2))
    said = base + rng.normal(0, 1, (m, points, 2)) * rng.choice([0.0, 0.3, 1.0, 6.0], (m, 1, 1))
    truth.keypoints = torch.from_numpy(np.concatenate([real, seen[..., None]], -1))
    answer.keypoints = torch.from_numpy(np.concatenate([said, np.ones((m, points, 1))], -1))


@pytest.mark.parametrize("points", [17, 5])
def test_equals_pycocotools_by_keypoints(points):
    sigmas = None if points == 17 else [0.03, 0.05, 0.08, 0.1, 0.2]
    areas = {"medium": (32.0, 200.0), "large": (200.0, 1e10)}
    for seed in range(500, 504):
        found, truths, classes = pictures(seed, 70)
        rng = np.random.default_rng(seed)
        for answer, truth in zip(found, truths, strict=True):
            with_keypoints(rng, answer, truth, points)
        ours = coco(found, truths, classes, areas, by="keypoints", sigmas=sigmas)
        assert list(ours.summary()) == [
            "AP", "AP50", "AP75", "AP_medium", "AP_large", "AR", "AR50", "AR75", "AR_medium", "AR_large",
        ]  # fmt: skip
        same(ours, reference(found, truths, classes, areas, (20,), "keypoints", sigmas))
