"""What parity tests of two-stage detectors share: torchvision's with our weights, and bodies for its operators."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

import oracles
from oculi.ops.nms import greedy_nms
from oculi.ops.roi_align import sampled_roi_align


class Backbone(nn.Module):
    """Our trunk and pyramid as torchvision wants them."""

    def __init__(self, system, channels):
        super().__init__()
        self.system, self.out_channels = system, channels

    def forward(self, image):
        return OrderedDict((str(i), x) for i, x in enumerate(self.system.features(image)))


def background_first(weight, classes, rows=1):
    """Our rows for class 0.. (and background last, if there) as torchvision's: background first."""
    parts = weight.reshape(-1, rows, *weight.shape[1:])
    parts = parts.roll(1, 0) if len(parts) == classes + 1 else torch.cat([torch.zeros_like(parts[:1]), parts])
    return parts.flatten(0, 1)


def settings(system, channels, hidden, classes, anchors, proposals, size):
    """Arguments that give torchvision's model the shape of ours."""
    torchvision = oracles.torchvision()
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

    oracles.implement("nms", greedy_nms)
    tops = {f"rpn_{when}_nms_top_n_{mode}": proposals for when in ("pre", "post") for mode in ("train", "test")}
    return {
        "backbone": Backbone(system, channels), "min_size": size, "max_size": size,
        "image_mean": [0.0] * 3, "image_std": [1.0] * 3, "box_batch_size_per_image": proposals // 2,
        "rpn_anchor_generator": AnchorGenerator(tuple((a,) for a in anchors), ((0.5, 1.0, 2.0),) * len(anchors)),
        "box_roi_pool": torchvision.ops.MultiScaleRoIAlign(["0", "1"], 7, 2),
        "box_head": TwoMLPHead(channels * 49, hidden), "box_predictor": FastRCNNPredictor(hidden, classes + 1), **tops,
    }  # fmt: skip


@torch.no_grad()
def copy_detector(detector, theirs, classes):
    """Give torchvision's RPN and box head the weights of ours."""
    theirs.transform.size_divisible = 1
    head, boxes = theirs.rpn.head, theirs.roi_heads
    for name in ("weight", "bias"):
        for mine, copy in (
            (detector.rpn.conv, head.conv[0][0]), (detector.rpn.objectness, head.cls_logits),
            (detector.rpn.deltas, head.bbox_pred), (detector.head.first, boxes.box_head.fc6),
            (detector.head.second, boxes.box_head.fc7),
        ):  # fmt: skip
            getattr(copy, name).copy_(getattr(mine, name))
        predictor = boxes.box_predictor
        getattr(predictor.cls_score, name).copy_(background_first(getattr(detector.head.classes, name), classes))
        getattr(predictor.bbox_pred, name).copy_(background_first(getattr(detector.head.deltas, name), classes, 4))


def lively(detector):
    """Weights that give many detections of every class."""
    for module in (detector.rpn.objectness, detector.rpn.deltas, detector.head.classes, detector.head.deltas):
        nn.init.normal_(module.weight, std=0.3 if module is detector.head.classes else 0.05)


def take_the_first(monkeypatch):
    """Both samplers then choose the first of each kind."""
    monkeypatch.setattr(torch, "randperm", lambda n, device: torch.arange(n))
    monkeypatch.setattr(torch, "rand", lambda shape, device: torch.arange(shape[1]).expand(shape) / shape[1])


def give_operators(monkeypatch):
    """Bodies for torchvision's compiled operators, that of RoI Align with a gradient and 2 x 2 samples in targets."""
    torchvision = oracles.torchvision()

    def pooled(x, rois, output_size, spatial_scale=1.0, sampling_ratio=2):
        regions = x[rois[:, 0].long()], rois[:, None, 1:]
        return sampled_roi_align(*regions, output_size[0], spatial_scale, sampling_ratio, aligned=False)[:, 0]

    monkeypatch.setattr(torchvision.ops.boxes, "_assert_has_ops", lambda: None)
    monkeypatch.setattr(torchvision.ops.poolers, "roi_align", pooled)
    monkeypatch.setattr(torchvision.models.detection.roi_heads, "roi_align", pooled)


def objects(n, size, classes, seed=0, points=3):
    """Random pictures, each with a different number of objects with boxes, masks and keypoints, the last with none."""
    from oculi.types import Batch

    g = torch.Generator().manual_seed(seed)
    boxes, labels, masks, keypoints = [], [], [], []
    for count in range(n - 1, -1, -1):
        corner = torch.rand(count, 2, generator=g) * size * 0.6
        sides = 6 + torch.rand(count, 2, generator=g) * size / 4
        boxes.append(torch.cat([corner, corner + sides], 1))
        labels.append(torch.randint(0, classes, (count,), generator=g))
        x, y = torch.arange(size) + 0.5, torch.arange(size)[:, None] + 0.5
        left, top, right, bottom = boxes[-1].T[..., None, None]
        inside = ((x - left) / (right - left) * 2 - 1) ** 2 + ((y - top) / (bottom - top) * 2 - 1) ** 2 < 1
        masks.append(inside)
        places = corner[:, None] + sides[:, None] * torch.rand(count, points, 2, generator=g)
        seen = torch.randint(0, 3, (count, points, 1), generator=g)
        keypoints.append(torch.cat([places, seen], -1))
    image = torch.rand(n, 3, size, size, generator=g)
    return Batch(image=image, boxes=boxes, labels=labels, masks=masks, keypoints=keypoints)
