"""Keypoint R-CNN with the same weights in torchvision's: losses, gradients, answers."""

import pytest
import torch

import oracles
from oculi.detect.keypoint_rcnn import KeypointRCNN
from oculi.types import Batch
from two_stage import copy_detector, give_operators, lively, objects, settings, take_the_first

SIZE, CLASSES, POINTS, CHANNELS, HIDDEN, ANCHORS, PROPOSALS = 64, 3, 4, 6, 16, [8, 16, 32], 24


def ours():
    torch.manual_seed(0)
    system = KeypointRCNN(CLASSES, POINTS, [1, 1], width=4, channels=CHANNELS, hidden=HIDDEN, anchors=ANCHORS,
                          proposals=PROPOSALS, pooling="align_shifted", image_size=SIZE)  # fmt: skip
    lively(system.detector)
    return system


@pytest.fixture(scope="module")
def pair():
    torchvision = oracles.torchvision()
    from torchvision.models.detection.keypoint_rcnn import KeypointRCNN as Theirs
    from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor

    system = ours()
    theirs = Theirs(
        **settings(system, CHANNELS, HIDDEN, CLASSES, ANCHORS, PROPOSALS, SIZE),
        keypoint_roi_pool=torchvision.ops.MultiScaleRoIAlign(["0", "1"], 14, 2),
        keypoint_head=KeypointRCNNHeads(CHANNELS, [HIDDEN // 2] * 8),
        keypoint_predictor=KeypointRCNNPredictor(HIDDEN // 2, POINTS),
    )
    copy_detector(system.detector, theirs, CLASSES)
    for mine, copy in zip(system.points.convs, list(theirs.roi_heads.keypoint_head)[::2], strict=True):
        copy.load_state_dict(mine.state_dict())
    theirs.roi_heads.keypoint_predictor.kps_score_lowres.load_state_dict(system.points.up.state_dict())
    return system, theirs


def test_losses_and_gradients_equal_torchvisions(pair, monkeypatch):
    system, theirs = pair
    batch = objects(3, SIZE, CLASSES, 1, POINTS)
    give_operators(monkeypatch)
    take_the_first(monkeypatch)
    system.eval()  # batch norm as it is, so that both see the same maps
    theirs.train()
    theirs.backbone.eval()
    parts = zip(batch.boxes, batch.labels, batch.keypoints, strict=True)
    targets = [{"boxes": b, "labels": k + 1, "keypoints": p} for b, k, p in parts]
    expected, losses = theirs(list(batch.image), targets), system.loss(batch)
    names = {"rpn_objectness": "loss_objectness", "rpn_boxes": "loss_rpn_box_reg", "classes": "loss_classifier",
             "boxes": "loss_box_reg", "keypoints": "loss_keypoint"}  # fmt: skip
    assert losses.keys() == names.keys()
    for mine, other in names.items():
        torch.testing.assert_close(losses[mine], expected[other], rtol=1e-5, atol=1e-6)
    mine = torch.autograd.grad(losses["keypoints"], list(system.points.convs.parameters()))
    other = torch.autograd.grad(expected["loss_keypoint"], list(theirs.roi_heads.keypoint_head.parameters()))
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_answers_equal_torchvisions(pair, monkeypatch):
    system, theirs = pair
    give_operators(monkeypatch)
    batch = objects(2, SIZE, CLASSES, 2, POINTS)
    with torch.no_grad():
        answers, expected = system.eval().predict(batch), theirs.eval()(list(batch.image))
    assert sum(len(a.boxes) for a in answers) > 10
    for mine, other in zip(answers, expected, strict=True):
        assert torch.equal(mine.labels, other["labels"] - 1)
        torch.testing.assert_close(mine.scores, other["scores"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mine.boxes, other["boxes"], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(mine.keypoints[..., :2], other["keypoints"][..., :2], rtol=1e-5, atol=1e-3)
        assert (mine.keypoints[..., 2] > 0).all()
        assert (mine.keypoints[..., 2] <= 1).all()


def test_unlabelled_points_teach_nothing_and_bad_input_is_named():
    system, batch = ours(), objects(2, SIZE, CLASSES, 3, POINTS)
    for points in batch.keypoints:
        points[..., 2] = 0
    losses = system.loss(batch)
    assert float(losses["keypoints"].detach()) == 0
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in system.parameters())
    with pytest.raises(ValueError, match=r"batch\.keypoints"):
        system.loss(Batch(image=batch.image, boxes=batch.boxes, labels=batch.labels))
    with pytest.raises(ValueError, match="keypoints"):
        KeypointRCNN(keypoints=0)
