"""Faster R-CNN with the same weights in torchvision's: pyramid, RPN, losses, gradients, answers; and its parts by hand."""

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import oracles
from oculi.detect.faster_rcnn import FasterRCNN
from oculi.nn import regions
from oculi.nn.fpn import FeaturePyramid
from oculi.nn.regions import sample_balanced, smooth_l1
from oculi.ops.boxes import area, box_iou
from oculi.serve.onnx_export import export, sample_pictures
from oculi.system import predict
from oculi.types import Batch
from two_stage import copy_detector, give_operators, lively, settings, take_the_first
from two_stage import objects as scattered

SIZE, CLASSES, PROPOSALS = 64, 3, 24


def objects(n, seed=0):
    return scattered(n, SIZE, CLASSES, seed)


def ours(seed=0):
    torch.manual_seed(seed)
    system = FasterRCNN(CLASSES, [1, 1], width=4, channels=6, hidden=16, anchors=[8, 16, 32], proposals=PROPOSALS,
                        aligned=False, image_size=SIZE)  # fmt: skip
    lively(system)
    return system


@pytest.fixture(scope="module")
def pair():
    oracles.torchvision()
    from torchvision.models.detection import FasterRCNN as Theirs

    system = ours()
    theirs = Theirs(**settings(system, 6, 16, CLASSES, [8, 16, 32], PROPOSALS, SIZE))
    copy_detector(system, theirs, CLASSES)
    return system, theirs


@pytest.fixture
def operators(monkeypatch):
    give_operators(monkeypatch)


def test_pyramid_equals_torchvisions():
    torchvision = oracles.torchvision()
    torch.manual_seed(0)
    mine = FeaturePyramid([4, 8, 16], 6, extra=True)
    pool = torchvision.ops.feature_pyramid_network.LastLevelMaxPool()
    theirs = torchvision.ops.FeaturePyramidNetwork([4, 8, 16], 6, pool)
    for i in range(3):
        theirs.inner_blocks[i][0].load_state_dict(mine.lateral[i].state_dict())
        theirs.layer_blocks[i][0].load_state_dict(mine.smooth[i].state_dict())
    maps = [torch.randn(2, c, s, s + 3) for c, s in ((4, 17), (8, 9), (16, 5))]  # odd sizes too
    expected = theirs(OrderedDict((str(i), x) for i, x in enumerate(maps))).values()
    for a, b in zip(mine(maps), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_first_stage_equals_torchvisions(pair, operators):
    system, theirs = pair
    system.eval()
    batch = objects(3)
    with torch.no_grad():
        maps = system.features(batch.image)
        scores, deltas = system.rpn(maps)
        anchors = system.anchors(maps)
        boxes, real = system.propose(scores, deltas, anchors, [SIZE, SIZE])
        logits, _ = theirs.rpn.head(maps)
        images, _ = theirs.transform(list(batch.image))
        expected, _ = theirs.rpn.eval()(images, OrderedDict((str(i), x) for i, x in enumerate(maps)))
    flat = torch.cat([x.permute(0, 2, 3, 1).flatten(1) for x in logits], 1)
    torch.testing.assert_close(scores, flat)
    assert deltas.shape == (3, flat.shape[1], 4)
    assert torch.equal(torch.cat(anchors), theirs.rpn.anchor_generator(images, maps)[0])
    for mine, ok, other in zip(boxes, real, expected, strict=True):
        torch.testing.assert_close(mine[ok], other, rtol=1e-5, atol=1e-4)


def test_losses_and_gradients_equal_torchvisions(pair, operators, monkeypatch):
    system, theirs = pair
    batch = objects(4, 1)
    take_the_first(monkeypatch)
    system.eval()  # batch norm as it is, so that both see the same maps
    theirs.train()
    theirs.backbone.eval()
    targets = [{"boxes": b, "labels": k + 1} for b, k in zip(batch.boxes, batch.labels, strict=True)]
    expected, losses = theirs(list(batch.image), targets), system.loss(batch)
    names = {"rpn_objectness": "loss_objectness", "rpn_boxes": "loss_rpn_box_reg", "classes": "loss_classifier",
             "boxes": "loss_box_reg"}  # fmt: skip
    for mine, other in names.items():
        torch.testing.assert_close(losses[mine], expected[other], rtol=1e-5, atol=1e-6)
    assert all(float(v.detach()) > 0 for v in losses.values())
    shared = list(system.pyramid.parameters())
    for a, b in zip(*(torch.autograd.grad(sum(v.values()), shared) for v in (losses, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_answers_equal_torchvisions(pair, operators):
    system, theirs = pair
    batch = objects(3, 2)
    with torch.no_grad():
        answers, expected = system.eval().predict(batch), theirs.eval()(list(batch.image))
    assert sum(len(a.boxes) for a in answers) > 10
    for mine, other in zip(answers, expected, strict=True):
        assert torch.equal(mine.labels, other["labels"] - 1)
        torch.testing.assert_close(mine.scores, other["scores"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mine.boxes, other["boxes"], rtol=1e-5, atol=1e-4)


def test_sampler_gives_the_share_that_was_asked_for():
    torch.manual_seed(0)
    kinds = torch.rand(3, 400)
    kinds[1] = torch.where(torch.arange(400) < 5, 0.0, 1.0)  # few foreground
    kinds[2] = torch.where(torch.arange(400) < 5, 1.0, 0.5)  # few background, the rest neither
    foreground, background = kinds < 0.4, kinds > 0.6
    positive, negative = sample_balanced(foreground, background, 64, 0.25)
    assert positive.sum(1).tolist() == [16, 5, 0]
    assert negative.sum(1).tolist() == [48, 59, 5]
    assert not (positive & ~foreground).any()
    assert not (negative & ~background).any()
    again, _ = sample_balanced(foreground, background, 64, 0.25)
    assert not torch.equal(again, positive), "random"


def test_sampler_draws_evenly():
    torch.manual_seed(0)
    foreground = (torch.arange(8) < 4).expand(2000, 8)
    positive, negative = sample_balanced(foreground, ~foreground, 4, 0.5)
    torch.testing.assert_close(positive.float().mean(0)[:4], torch.full((4,), 0.5), rtol=0, atol=0.05)
    torch.testing.assert_close(negative.float().mean(0)[4:], torch.full((4,), 0.5), rtol=0, atol=0.05)


def test_smooth_l1_by_hand(monkeypatch):
    monkeypatch.setattr(regions, "BETA", 1.0)
    assert float(smooth_l1(torch.tensor([[3.0, 0, 0, 0]]), torch.zeros(1, 4))) == 2.5
    assert float(smooth_l1(torch.tensor([[0.0, -0.5, 0, 0]]), torch.zeros(1, 4))) == 0.125
    monkeypatch.setattr(regions, "BETA", 1 / 9)
    d = torch.linspace(-1, 1, 40).reshape(-1, 4)
    by_hand = torch.where(d.abs() < 1 / 9, 4.5 * d**2, d.abs() - 1 / 18).sum()
    torch.testing.assert_close(smooth_l1(d, torch.zeros_like(d)), by_hand)


def test_box_loss_reaches_the_true_class_of_foreground_alone():
    system = ours()
    assert system.head.deltas.out_features == 4 * CLASSES
    seen = {}

    def head(regions):
        seen["scores"] = torch.zeros(len(regions), CLASSES + 1, requires_grad=True)
        seen["deltas"] = torch.zeros(len(regions), CLASSES, 4, requires_grad=True)
        return seen["scores"], seen["deltas"]

    system.head.forward = head
    pool = system.pool

    def keep_boxes(maps, boxes):
        seen["boxes"] = boxes
        return pool(maps, boxes)

    system.pool = keep_boxes
    batch = objects(4, 3)
    losses = system.loss(batch)
    deltas, scores = torch.autograd.grad(losses["boxes"] + losses["classes"], (seen["deltas"], seen["scores"]))
    deltas = deltas.reshape(4, -1, CLASSES, 4)
    for boxes, grad, truth, labels in zip(seen["boxes"], deltas, batch.boxes, batch.labels, strict=True):
        overlap, index = box_iou(boxes, torch.cat([truth, torch.zeros(1, 4)])).max(1)
        foreground = overlap >= 0.5
        assert (grad[~foreground] == 0).all()
        if foreground.any():
            others = F.one_hot(labels[index[foreground]], CLASSES) == 0
            assert (grad[foreground][others] == 0).all()
            assert (grad[foreground][~others].abs().sum() > 0) or bool((overlap[foreground] == 1).all())
    assert scores.abs().sum() > 0


def test_regions_come_from_the_level_of_their_size():
    with torch.device("cpu"):
        system = FasterRCNN(2, [1, 1, 1, 1], width=2, channels=2, hidden=4, proposals=4, image_size=512)
    maps = [torch.full((1, 2, 512 // s, 512 // s), float(s)) for s in (4, 8, 16, 32)]
    sides = torch.tensor([20.0, 111, 112, 223, 224, 447, 448, 500])
    boxes = torch.stack([sides * 0, sides * 0, sides, sides], 1)
    levels = system.pool(maps, boxes[None])[:, 0, 3, 3]
    assert levels.tolist() == [4, 4, 8, 8, 16, 16, 32, 32]
    assert system.strides == [4, 8, 16, 32, 64]


def test_pictures_without_objects_teach_background():
    system = ours()
    batch = Batch(image=torch.rand(2, 3, SIZE, SIZE), boxes=[torch.zeros(0, 4)] * 2, labels=[torch.zeros(0).long()] * 2)
    losses = system.loss(batch)
    assert float(losses["boxes"].detach()) == float(losses["rpn_boxes"].detach()) == 0
    assert float(losses["classes"].detach()) > 0
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in system.parameters())


def test_crowd_regions_are_not_trained_on(monkeypatch):
    system, batch = ours().eval(), objects(3)
    crowd = [torch.arange(len(k)) == 0 for k in batch.labels]
    without = replace(batch, boxes=[b[1:] for b in batch.boxes], labels=[k[1:] for k in batch.labels])
    take_the_first(monkeypatch)
    marked, dropped = system.loss(replace(batch, crowd=crowd)), system.loss(without)
    for name in dropped:
        torch.testing.assert_close(marked[name], dropped[name])


def test_answers_are_boxes_inside_the_picture_best_first():
    for answer in ours().eval().predict(objects(2)):
        assert (area(answer.boxes) > 0).all()
        assert answer.boxes.min() >= 0
        assert answer.boxes.max() <= SIZE
        assert (answer.scores.diff() <= 0).all()
        assert (answer.labels < CLASSES).all()


@pytest.mark.unchecked
def test_the_exported_file_finds_the_same_boxes(tmp_path):
    """NMS and all, at any batch size: `export` compares before it writes."""
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    system = FasterRCNN(2, [1], width=4, channels=4, hidden=8, anchors=[12], proposals=8, image_size=32).eval()
    nn.init.normal_(system.head.classes.weight)
    report = export(system, tmp_path / "tiny.onnx")
    assert report.decisions_equal
    assert "Loop" in report.operators
    assert any(len(answer.boxes) > 1 for answer in predict(system, sample_pictures(4)))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"anchors.*1 to 3"):
        FasterRCNN(depths=[1, 1], anchors=[8] * 4)
    with pytest.raises(ValueError, match="proposals"):
        FasterRCNN(proposals=1)
    with pytest.raises(ValueError, match=r"batch\.boxes"):
        ours().loss(Batch(image=torch.rand(1, 3, SIZE, SIZE)))
