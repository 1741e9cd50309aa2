"""Average precision against pycocotools on random cases: crowds, empty pictures, ties, area ranges, few detections."""

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


def random_case(seed: int):
    """Pictures of 64 x 64 with boxes on a coarse grid, so that IoU and score ties and thresholds met exactly occur."""
    rng = np.random.default_rng(seed)
    classes, grid = int(rng.integers(1, 4)), (1.0, 0.5, 2.0, 0.0)[seed % 4]

    def boxes(n):
        low, size = rng.uniform(0, 40, (n, 2)), rng.uniform(2, 24, (n, 2))
        if grid:
            low, size = np.round(low / grid) * grid, np.maximum(np.round(size / grid), 1) * grid
        return np.concatenate([low, low + size], 1)

    truths, found = [], []
    for _ in range(int(rng.integers(1, 7))):
        n = 0 if rng.random() < 0.2 else int(rng.integers(0, 8))
        real = boxes(n)
        crowd = rng.random(n) < 0.25
        area = (real[:, 2:] - real[:, :2]).prod(1) * (1 if seed % 3 else rng.uniform(0.3, 1, n))
        label = rng.integers(0, classes, n)
        truths.append(
            Objects(torch.tensor(real).reshape(-1, 4), torch.tensor(label), torch.tensor(crowd), torch.tensor(area))
        )
        copies = real[rng.integers(0, n, int(rng.integers(0, 3 * n)))] if n else np.zeros((0, 4))
        shift = rng.integers(-2, 3, copies.shape) * (grid or rng.random())
        near = copies + np.where(rng.random(copies.shape) < 0.5, shift, 0)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        said = np.concatenate([near, boxes(int(rng.integers(0, 5)))])
        score = rng.random(len(said)) if seed % 2 else rng.integers(0, 6, len(said)) / 5
        label = rng.integers(0, classes, len(said))
        found.append(Detections(torch.tensor(said), torch.tensor(score), torch.tensor(label)))
    return found, truths, classes


def reference(found, truths, classes, areas, most, by="bbox", masks=None):
    """pycocotools' precision, recall and twelve numbers, NaN for -1."""
    images = [{"id": i + 1, "height": 64, "width": 64} for i in range(len(truths))]
    real, said = [], []
    for i, (truth, answer) in enumerate(zip(truths, found, strict=True)):
        for j in range(len(truth.labels)):
            x1, y1, x2, y2 = truth.boxes[j].tolist()
            one = {"id": len(real) + 1, "image_id": i + 1, "category_id": int(truth.labels[j]) + 1}
            one |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(truth.area[j]), "iscrowd": int(truth.crowd[j])}
            if by == "segm":
                one["segmentation"] = coco_mask.encode(np.asfortranarray(truth.masks[j].numpy().astype(np.uint8)))
            real.append(one)
        for j in range(len(answer.labels)):
            x1, y1, x2, y2 = answer.boxes[j].tolist()
            one = {"image_id": i + 1, "category_id": int(answer.labels[j]) + 1, "score": float(answer.scores[j])}
            if by == "segm":
                one["segmentation"] = coco_mask.encode(np.asfortranarray(answer.masks[j].numpy().astype(np.uint8)))
            else:
                one["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            said.append(one)
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO()
        dataset.dataset = {
            "images": images, "annotations": real, "categories": [{"id": k + 1, "name": str(k)} for k in range(classes)]
        }  # fmt: skip
        dataset.createIndex()
        results = dataset.loadRes(said) if said else COCO()
        run = COCOeval(dataset, results, by)
        run.params.areaRng = [[0, 1e10], *map(list, areas.values())]
        run.params.maxDets = list(most)
        if not said:
            results.dataset = {"images": images, "annotations": [], "categories": dataset.dataset["categories"]}
            results.createIndex()
        run.evaluate()
        run.accumulate()
        run.summarize()
    arrays = [torch.from_numpy(np.where(run.eval[k] < 0, np.nan, run.eval[k])) for k in ("precision", "recall")]
    return *arrays, np.where(run.stats < 0, np.nan, run.stats)


def same(ours, theirs):
    torch.testing.assert_close(ours.precision, theirs[0], atol=1e-9, rtol=0, equal_nan=True)
    torch.testing.assert_close(ours.recall, theirs[1], atol=1e-9, rtol=0, equal_nan=True)


@pytest.mark.parametrize("block", range(20))
def test_equals_pycocotools_on_random_cases(block):
    for seed in range(block * 20, block * 20 + 20):
        found, truths, classes = random_case(seed)
        areas = SMALL if seed % 5 else COCO_AREAS
        ours, theirs = coco(found, truths, classes, areas), reference(found, truths, classes, areas, (1, 10, 100))
        same(ours, theirs)
        np.testing.assert_allclose(list(ours.summary().values()), theirs[2], atol=1e-9, rtol=0)


def test_equals_pycocotools_with_few_detections_allowed():
    for seed in range(400, 430):
        found, truths, classes = random_case(seed)
        same(coco(found, truths, classes, SMALL, (1, 2, 3)), reference(found, truths, classes, SMALL, (1, 2, 3)))


def test_equals_pycocotools_on_many_detections_in_one_picture():
    torch.manual_seed(0)
    low, size = torch.rand(400, 2).double() * 50, torch.rand(400, 2).double() * 12 + 1
    boxes = torch.cat([low, low + size], 1)
    found = [Detections(boxes, torch.rand(400).double(), torch.zeros(400).long())]
    real = boxes[:30] + 0.5
    area = (real[:, 2:] - real[:, :2]).prod(1)
    truths = [Objects(real, torch.zeros(30).long(), torch.arange(30) > 27, area)]
    same(coco(found, truths, 1, SMALL), reference(found, truths, 1, SMALL, (1, 10, 100)))


def test_equals_pycocotools_by_masks():
    for seed in range(40):
        found, truths, classes = random_case(seed)
        y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
        for one in (*found, *truths):
            b = one.boxes[:, :, None, None]
            one.masks = ((x > b[:, 0]) & (x < b[:, 2]) & (y > b[:, 1]) & (y < b[:, 3])) & ((x + y) % 7 != 0)
            if isinstance(one, Objects):
                one.area = one.masks.flatten(1).sum(1).double()
        ours = coco(found, truths, classes, SMALL, by="masks")
        if sum(len(f.labels) for f in found):
            same(ours, reference(found, truths, classes, SMALL, (1, 10, 100), "segm"))
