"""Fast R-CNN with the same weights and proposals in torchvision's RoIHeads: losses, gradients, answers."""

import pytest
import torch
from torch import nn

import oracles
from oculi.detect.fast_rcnn import FastRCNN
from oculi.nn.detection import objects_of
from oculi.nn.regions import region_losses, sample_regions
from oculi.ops.nms import greedy_nms
from oculi.ops.roi_pool import looked_up_roi_pool
from oculi.types import Batch
from two_stage import background_first, give_operators, objects, take_the_first

SIZE, CLASSES, HIDDEN, SAMPLED = 64, 3, 16, 20


class Pool(nn.Module):
    """RoI pooling of the one map, bin by bin, as RoIHeads asks for it."""

    def forward(self, features, boxes, sizes):
        parts = [
            looked_up_roi_pool(features["0"][i : i + 1], b[None], 7, 1 / 8)[0] for i, b in enumerate(boxes) if len(b)
        ]
        return torch.cat(parts)


@pytest.fixture(scope="module")
def pair():
    torchvision = oracles.torchvision()
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.roi_heads import RoIHeads

    oracles.implement("nms", greedy_nms)
    torch.manual_seed(0)
    system = FastRCNN(CLASSES, [1, 1], width=4, hidden=HIDDEN, sampled=SAMPLED, image_size=SIZE).eval()
    for module in (system.head.classes, system.head.deltas):
        nn.init.normal_(module.weight, std=0.3)
    theirs = RoIHeads(
        Pool(), TwoMLPHead(8 * 49, HIDDEN), FastRCNNPredictor(HIDDEN, CLASSES + 1), 0.5, 0.5, SAMPLED, 0.25, None,
        0.05, 0.5, 100,
    )  # fmt: skip
    assert torchvision
    with torch.no_grad():
        for name in ("weight", "bias"):
            head = theirs.box_head
            getattr(head.fc6, name).copy_(getattr(system.head.first, name))
            getattr(head.fc7, name).copy_(getattr(system.head.second, name))
            predictor = theirs.box_predictor
            getattr(predictor.cls_score, name).copy_(background_first(getattr(system.head.classes, name), CLASSES))
            getattr(predictor.bbox_pred, name).copy_(background_first(getattr(system.head.deltas, name), CLASSES, 4))
    return system, theirs


def proposals(n, count=12):
    g = torch.Generator().manual_seed(9)
    corner = torch.rand(n, count, 2, generator=g) * 40
    return torch.cat([corner, corner + 4 + torch.rand(n, count, 2, generator=g) * 20], -1)


def test_losses_and_gradients_equal_torchvisions(pair, monkeypatch):
    system, theirs = pair
    batch, boxes = objects(3, SIZE, CLASSES, 1), proposals(3)
    give_operators(monkeypatch)
    take_the_first(monkeypatch)
    maps = system.features(batch.image)
    targets = [{"boxes": b, "labels": k + 1} for b, k in zip(batch.boxes, batch.labels, strict=True)]
    _, expected = theirs.train()({"0": maps[-1]}, list(boxes), [(SIZE, SIZE)] * 3, targets)
    truth = objects_of(batch)
    regions = sample_regions(boxes, torch.ones(boxes.shape[:2], dtype=torch.bool), truth, SAMPLED)
    losses = region_losses(*system.judge(maps, regions.boxes), regions, truth)
    for mine, other in (("classes", "loss_classifier"), ("boxes", "loss_box_reg")):
        torch.testing.assert_close(losses[mine], expected[other], rtol=1e-5, atol=1e-6)
    shared = list(system.trunk.stages.parameters())
    for a, b in zip(
        *(torch.autograd.grad(sum(v.values()), shared, retain_graph=True) for v in (losses, expected)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_answers_equal_torchvisions(pair, monkeypatch):
    system, theirs = pair
    batch, boxes = objects(2, SIZE, CLASSES, 2), proposals(2)
    give_operators(monkeypatch)
    with torch.no_grad():
        found, scores, labels = system(batch.image, boxes, torch.ones(boxes.shape[:2], dtype=torch.bool))
        maps = system.features(batch.image)
        expected, _ = theirs.eval()({"0": maps[-1]}, list(boxes), [(SIZE, SIZE)] * 2)
    for i, other in enumerate(expected):
        n = len(other["boxes"])
        assert n > 3
        assert torch.equal(labels[i, :n], other["labels"] - 1)
        torch.testing.assert_close(scores[i, :n], other["scores"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[i, :n], other["boxes"], rtol=1e-5, atol=1e-4)
        assert not scores[i, n:].any()


def test_regions_that_are_not_real_are_never_answers(pair):
    system, _ = pair
    batch, boxes = objects(1, SIZE, CLASSES), proposals(1)
    real = torch.arange(12)[None] < 4
    few = system(batch.image, boxes, real)
    alone = system(batch.image, boxes[:, :4], real[:, :4])
    n = int((alone[1] > 0).sum())
    assert n == int((few[1] > 0).sum())
    torch.testing.assert_close(few[0][:, :n], alone[0][:, :n])


def test_it_searches_by_itself():
    system = FastRCNN(CLASSES, [1], width=4, hidden=8, proposals=10, sampled=4, image_size=32)
    batch = objects(2, 32, CLASSES)
    losses = system.loss(batch)
    assert losses.keys() == {"classes", "boxes"}
    assert len(system.search.known) == 2
    assert len(system.eval().predict(batch)) == 2
    with pytest.raises(ValueError, match=r"batch\.boxes"):
        system.loss(Batch(image=batch.image))
    with pytest.raises(ValueError, match="proposals"):
        FastRCNN(proposals=0)
