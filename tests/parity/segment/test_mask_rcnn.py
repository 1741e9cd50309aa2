"""Mask R-CNN with the same weights in torchvision's: losses, gradients, answers with masks; and pasting by hand."""

import pytest
import torch
from torch import nn

import oracles
from oculi.ops.mask_paste import paste
from oculi.segment.mask_rcnn import MaskRCNN
from oculi.types import Batch
from two_stage import copy_detector, give_operators, lively, objects, settings, take_the_first

SIZE, CLASSES, CHANNELS, HIDDEN, ANCHORS, PROPOSALS = 64, 3, 6, 16, [8, 16, 32], 24


def ours(pooling="align_shifted"):
    torch.manual_seed(0)
    system = MaskRCNN(CLASSES, [1, 1], width=4, channels=CHANNELS, hidden=HIDDEN, anchors=ANCHORS, proposals=PROPOSALS,
                      pooling=pooling, image_size=SIZE)  # fmt: skip
    lively(system.detector)
    return system


@pytest.fixture(scope="module")
def pair():
    torchvision = oracles.torchvision()
    from torchvision.models.detection.mask_rcnn import MaskRCNN as Theirs
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

    system = ours()
    theirs = Theirs(
        **settings(system, CHANNELS, HIDDEN, CLASSES, ANCHORS, PROPOSALS, SIZE),
        mask_roi_pool=torchvision.ops.MultiScaleRoIAlign(["0", "1"], 14, 2),
        mask_head=MaskRCNNHeads(CHANNELS, [CHANNELS] * 4, 1),
        mask_predictor=MaskRCNNPredictor(CHANNELS, CHANNELS, CLASSES + 1),
    )
    copy_detector(system.detector, theirs, CLASSES)
    heads, predictor = theirs.roi_heads.mask_head, theirs.roi_heads.mask_predictor
    with torch.no_grad():
        for mine, copy in zip(system.masks.convs, heads, strict=True):
            copy[0].load_state_dict(mine.state_dict())
        predictor.conv5_mask.load_state_dict(system.masks.up.state_dict())
        predictor.mask_fcn_logits.weight[1:] = system.masks.logits.weight
        predictor.mask_fcn_logits.bias[1:] = system.masks.logits.bias
    return system, theirs


def test_losses_and_gradients_equal_torchvisions(pair, monkeypatch):
    system, theirs = pair
    batch = objects(3, SIZE, CLASSES, 1)
    give_operators(monkeypatch)
    take_the_first(monkeypatch)
    system.eval()  # batch norm as it is, so that both see the same maps
    theirs.train()
    theirs.backbone.eval()
    parts = zip(batch.boxes, batch.labels, batch.masks, strict=True)
    targets = [{"boxes": b, "labels": k + 1, "masks": m} for b, k, m in parts]
    expected, losses = theirs(list(batch.image), targets), system.loss(batch)
    names = {"rpn_objectness": "loss_objectness", "rpn_boxes": "loss_rpn_box_reg", "classes": "loss_classifier",
             "boxes": "loss_box_reg", "masks": "loss_mask"}  # fmt: skip
    assert losses.keys() == names.keys()
    for mine, other in names.items():
        torch.testing.assert_close(losses[mine], expected[other], rtol=1e-5, atol=1e-6)
    mine = torch.autograd.grad(losses["masks"], list(system.masks.convs.parameters()))
    other = torch.autograd.grad(expected["loss_mask"], list(theirs.roi_heads.mask_head.parameters()))
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_answers_equal_torchvisions(pair, monkeypatch):
    system, theirs = pair
    give_operators(monkeypatch)
    batch = objects(2, SIZE, CLASSES, 2)
    with torch.no_grad():
        boxes, scores, labels, masks = system.eval()(batch.image)
        expected = theirs.eval()(list(batch.image))
    assert sum(len(e["boxes"]) for e in expected) > 10
    for i, other in enumerate(expected):
        n = len(other["boxes"])
        assert torch.equal(labels[i, :n], other["labels"] - 1)
        assert not scores[i, n:].any()
        assert not masks[i, n:].any()
        torch.testing.assert_close(scores[i, :n], other["scores"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(boxes[i, :n], other["boxes"], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(masks[i, :n], other["masks"][:, 0], rtol=1e-4, atol=1e-4)


def test_a_mask_is_its_classes_alone():
    """The other classes' maps have no gradient: masks do not compete."""
    system, seen = ours("align"), {}

    def head(regions):
        seen["logits"] = torch.zeros(len(regions), CLASSES, 28, 28, requires_grad=True)
        return seen["logits"]

    system.masks.forward = head
    batch = objects(2, SIZE, CLASSES, 3)
    batch.labels = [torch.full_like(k, 1) for k in batch.labels]
    (grad,) = torch.autograd.grad(system.loss(batch)["masks"], [seen["logits"]])
    assert grad[:, 1].abs().sum() > 0
    assert not grad[:, [0, 2]].any()


@pytest.mark.parametrize("pooling", ["align", "align_shifted", "pool"])
def test_every_pooling_answers_with_masks_inside_boxes(pooling):
    system, batch = ours(pooling), objects(2, SIZE, CLASSES)
    system.loss(batch)["masks"].backward()
    nn.init.constant_(system.masks.logits.bias, 5.0)
    with torch.no_grad():
        answers = system.eval().predict(batch)
    assert sum(len(a.boxes) for a in answers) > 2
    for answer in answers:
        for box, mask in zip(answer.boxes, answer.masks, strict=True):
            y, x = mask.nonzero().unbind(1)
            assert len(x)
            border = 0.5 if pooling != "align_shifted" else 2 + float((box[2:] - box[:2]).max()) / 28
            assert x.min() + 0.5 >= box[0] - border
            assert x.max() + 0.5 <= box[2] + border
            assert y.min() + 0.5 >= box[1] - border
            assert y.max() + 0.5 <= box[3] + border


def test_pasting_equals_torchvisions_and_its_exact_kind_equals_a_grid():
    oracles.torchvision()
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    torch.manual_seed(0)
    corner = torch.rand(6, 2) * 30 - 5
    boxes, masks = torch.cat([corner, corner + 1 + torch.rand(6, 2) * 25], 1), torch.rand(6, 28, 28)
    expected = paste_masks_in_image(masks[:, None], boxes, (32, 40))[:, 0]
    torch.testing.assert_close(paste(masks, boxes, 32, 40, whole=True), expected, rtol=1e-5, atol=1e-5)
    x, y = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(32) + 0.5, indexing="xy")
    unit = (torch.stack([x, y], -1) - boxes[:, None, None, :2]) / (boxes[:, 2:] - boxes[:, :2])[:, None, None] * 2 - 1
    sampled = nn.functional.grid_sample(masks[:, None], unit, padding_mode="border", align_corners=False)[:, 0]
    sampled = sampled * (unit.abs() < 1).all(-1)
    torch.testing.assert_close(paste(masks, boxes, 32, 40), sampled, rtol=1e-5, atol=1e-5)


def test_pictures_without_objects_teach_no_masks_and_bad_input_is_named():
    system = ours()
    empty = {"boxes": [torch.zeros(0, 4)], "labels": [torch.zeros(0).long()]}
    batch = Batch(image=torch.rand(1, 3, SIZE, SIZE), **empty, masks=[torch.zeros(0, SIZE, SIZE).bool()])
    losses = system.loss(batch)
    assert float(losses["masks"].detach()) == 0
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in system.parameters())
    with pytest.raises(ValueError, match=r"batch\.masks"):
        system.loss(Batch(image=batch.image, **empty))


@pytest.mark.unchecked
def test_an_unknown_pooling_and_masks_that_are_not_square_are_named():
    with pytest.raises(ValueError, match="pooling"):
        MaskRCNN(pooling="average")
    with pytest.raises(ValueError, match="masks"):
        paste(torch.zeros(1, 2, 3), torch.zeros(1, 4), 4, 4)
