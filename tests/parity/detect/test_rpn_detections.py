"""One class from the first stage alone: torchvision's RPN with the same layers, and what it costs."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

import oracles
from oculi.detect.faster_rcnn import FasterRCNN
from oculi.detect.rpn_detections import rpn_detections
from oculi.ops.nms import greedy_nms

SIZE = 64


def ours(num_classes=1):
    torch.manual_seed(0)
    system = FasterRCNN(num_classes, [1], width=4, channels=6, hidden=8, anchors=[12], proposals=300, image_size=SIZE)
    for layer in (system.rpn.objectness, system.rpn.deltas):
        nn.init.normal_(layer.weight, std=0.3)
    return system.eval()


def test_equals_torchvisions_rpn(monkeypatch):
    torchvision = oracles.torchvision()
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList
    from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

    oracles.implement("nms", greedy_nms)
    monkeypatch.setattr(torchvision.ops.boxes, "_assert_has_ops", lambda: None)
    system, image = ours(), torch.rand(2, 3, SIZE, SIZE)
    head = RPNHead(6, 3)
    head.conv[0][0].load_state_dict(system.rpn.conv.state_dict())
    head.cls_logits.load_state_dict(system.rpn.objectness.state_dict())
    head.bbox_pred.load_state_dict(system.rpn.deltas.state_dict())
    counts = {"training": 1000, "testing": 1000}
    theirs = RegionProposalNetwork(
        AnchorGenerator(((12,),), ((0.5, 1.0, 2.0),)), head, 0.7, 0.3, 256, 0.5, counts,
        {"training": 100, "testing": 100}, 0.5, score_thresh=0.05,
    ).eval()  # fmt: skip
    with torch.no_grad():
        boxes, scores, labels = rpn_detections(system, image)
        maps = OrderedDict((str(i), x) for i, x in enumerate(system.features(image)))
        expected, _ = theirs(ImageList(image, [(SIZE, SIZE)] * 2), maps)
    assert (labels == 0).all()
    for mine, score, other in zip(boxes, scores, expected, strict=True):
        assert len(other) > 5
        torch.testing.assert_close(mine[score > 0], other, rtol=1e-5, atol=1e-4)


def test_the_second_stage_is_never_asked():
    system = ours()
    system.head = None
    boxes, scores, _ = rpn_detections(system, torch.rand(1, 3, SIZE, SIZE))
    assert boxes.shape == (1, 100, 4)
    assert (scores.diff() <= 0).all()


def test_several_classes_are_refused():
    with pytest.raises(ValueError, match="expected one class, got 3"):
        rpn_detections(ours(3), torch.rand(1, 3, SIZE, SIZE))
