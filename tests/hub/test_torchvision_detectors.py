"""torchvision's R-CNNs: every name and shape at full size, and the order of classes and the variances by hand."""

import pytest
import torch

from oculi.hub.torchvision_regions import NETWORKS, from_torchvision
from oculi.system import BadCheckpoint
from oracles import torchvision

CLASSES = {"fasterrcnn_resnet50_fpn": 90, "maskrcnn_resnet50_fpn": 90, "keypointrcnn_resnet50_fpn": 1}


def theirs(name):
    with torch.device("meta"):
        return getattr(torchvision().models.detection, name)(weights=None, weights_backbone=None).state_dict()


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_network_fits(name):
    tensors = theirs(name)
    with torch.device("meta"):
        system = from_torchvision(name, tensors)
    assert system.config["num_classes"] == CLASSES[name]
    assert not system.training


def test_background_goes_last_and_variances_lose_our_epsilon():
    name = "maskrcnn_resnet50_fpn"
    tensors = {key: value.to("cpu") if value.device.type != "meta" else torch.zeros(value.shape, dtype=value.dtype)
               for key, value in theirs(name).items()}  # fmt: skip
    tensors["roi_heads.box_predictor.cls_score.bias"] = torch.arange(91.0)
    tensors["roi_heads.box_predictor.bbox_pred.bias"] = torch.arange(91.0).repeat_interleave(4)
    tensors["roi_heads.mask_predictor.mask_fcn_logits.bias"] = torch.arange(91.0)
    tensors["backbone.body.bn1.running_var"] = torch.full((64,), 0.5)
    system = from_torchvision(name, tensors)
    head = system.detector.head
    assert head.classes.bias.tolist() == [*range(1, 91), 0]
    assert head.deltas.bias.reshape(90, 4)[:, 0].tolist() == list(range(1, 91))
    assert system.masks.logits.bias.tolist() == list(range(1, 91))
    norm = system.detector.trunk.stem[1]
    torch.testing.assert_close(norm.running_var + norm.eps, torch.full((64,), 0.5))
    assert system.pixel_mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_what_does_not_fit_is_named():
    with pytest.raises(BadCheckpoint, match="maskrcnn"):
        from_torchvision("maskrcnn_resnet18", {})
    with pytest.raises(BadCheckpoint, match=r"cls_score\.bias"):
        from_torchvision("maskrcnn_resnet50_fpn", {}, "mine.pth")
