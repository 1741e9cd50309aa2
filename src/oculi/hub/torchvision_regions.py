r"""torchvision's Faster, Mask and Keypoint R-CNN with ResNet-50 and FPN under our names.

    system = from_torchvision("maskrcnn_resnet50_fpn", read_tensors("maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"))

Three things differ beside names: background is their first class and our last (and has no deltas and no mask here); the
published weights were trained with frozen batch norms without epsilon, ours have one, so that variances give it back; and
the labels of COCO are those of its 91 categories less one. Names of files from before 2022 are known too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from oculi.detect.faster_rcnn import FasterRCNN
from oculi.detect.keypoint_rcnn import KeypointRCNN
from oculi.hub.renames import Layout, Rules, fill, nearest
from oculi.hub.torchvision import MEAN, RESNET, STD
from oculi.segment.mask_rcnn import LAYERS, MaskRCNN
from oculi.system import BadCheckpoint, System

EPSILON = 1e-5  # of our batch norms; the files' have none
CLASSES, DELTAS, MASKS = (
    f"roi_heads.{name}." for name in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits")
)  # fmt: skip


def detector(prefix: str = "") -> Rules:
    """The rules of Faster R-CNN, which is a part of the others."""
    trunk = {f"backbone.body.{theirs}": f"{prefix}trunk.{ours}" for theirs, ours in RESNET.items() if theirs != "fc.*"}
    return {
        **trunk,
        "backbone.fpn.inner_blocks.#.0.*": f"{prefix}pyramid.lateral.<1>.<2>",
        "backbone.fpn.layer_blocks.#.0.*": f"{prefix}pyramid.smooth.<1>.<2>",
        "backbone.fpn.inner_blocks.#.*": f"{prefix}pyramid.lateral.<1>.<2>",
        "backbone.fpn.layer_blocks.#.*": f"{prefix}pyramid.smooth.<1>.<2>",
        "rpn.head.conv.0.0.*": f"{prefix}rpn.conv.<1>",
        "rpn.head.conv.*": f"{prefix}rpn.conv.<1>",
        "rpn.head.cls_logits.*": f"{prefix}rpn.objectness.<1>",
        "rpn.head.bbox_pred.*": f"{prefix}rpn.deltas.<1>",
        "roi_heads.box_head.fc6.*": f"{prefix}head.first.<1>",
        "roi_heads.box_head.fc7.*": f"{prefix}head.second.<1>",
        f"{CLASSES}*": f"{prefix}head.classes.<1>",
        f"{DELTAS}*": f"{prefix}head.deltas.<1>",
    }


RESNET50 = {"depths": [3, 4, 6, 3], "bottleneck": True}
NETWORKS = {
    "fasterrcnn_resnet50_fpn": Layout(FasterRCNN, {**RESNET50, "aligned": False}, detector()),
    "maskrcnn_resnet50_fpn": Layout(
        MaskRCNN,
        {**RESNET50, "pooling": "align_shifted"},
        {
            **detector("detector."),
            "roi_heads.mask_head.#.0.*": "masks.convs.<1>.<2>",
            **{f"roi_heads.mask_head.mask_fcn{i + 1}.*": f"masks.convs.{i}.<1>" for i in range(LAYERS)},
            "roi_heads.mask_predictor.conv5_mask.*": "masks.up.<1>",
            f"{MASKS}*": "masks.logits.<1>",
        },
    ),
    "keypointrcnn_resnet50_fpn": Layout(
        KeypointRCNN,
        {**RESNET50, "pooling": "align_shifted"},
        {
            **detector("detector."),
            **{f"roi_heads.keypoint_head.{2 * i}.*": f"points.convs.{i}.<1>" for i in range(8)},
            "roi_heads.keypoint_predictor.kps_score_lowres.*": "points.up.<1>",
        },
    ),
}


def from_torchvision(network: str, tensors: Mapping[str, Tensor], source: str = "", **changed: Any) -> System:
    """The system with a state dict's weights, in eval mode; `changed` are more of its arguments, as image_size.

    Raises BadCheckpoint where the network is not known or a tensor does not fit.
    """
    if network not in NETWORKS:
        raise BadCheckpoint(f"{source or network}: {nearest(NETWORKS, network)}")
    layout = NETWORKS[network]
    if f"{CLASSES}bias" not in tensors:
        raise BadCheckpoint(f"{source or network}: expected {CLASSES}bias, which counts the classes; it is missing")
    counted: dict[str, Any] = {"num_classes": len(tensors[f"{CLASSES}bias"]) - 1}
    points = tensors.get("roi_heads.keypoint_predictor.kps_score_lowres.bias")
    if points is not None:
        counted["keypoints"] = len(points)
    system = layout.system(**{**layout.arguments, **counted, **changed})
    moved = {name: _ours(name, value) for name, value in tensors.items()}
    fill(system, moved, layout.rules_for(system, moved), source or network)
    system.set_statistics(torch.tensor(MEAN), torch.tensor(STD))
    return system.eval()


def _ours(name: str, value: Tensor) -> Tensor:
    """Background last, or gone; variances less what our batch norms add."""
    if name.startswith(CLASSES):
        return value.roll(-1, 0)
    if name.startswith(DELTAS):
        return value[4:]
    if name.startswith(MASKS):
        return value[1:]
    return (value - EPSILON).clamp_min(0) if name.endswith("running_var") else value
