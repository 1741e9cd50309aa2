r"""torchvision's published detectors, trained on COCO: Faster, Mask and Keypoint R-CNN and RetinaNet with ResNet-50 and FPN,
and SSD300 with VGG-16.

Three things differ beside names. Background is their first class and our last, and has no deltas and no mask here;
RetinaNet's classes are independent, so that there background is just a class that is never found. The published files'
batch norms have no epsilon, which the weights make up for. The labels of COCO are its 91 categories, less background.
Names of files from before 2022 are known too.

Pictures are letterboxed into the size that torchvision gives their shorter side, so that one size holds any of them; SSD
stretches them.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from oculi.detect.faster_rcnn import FasterRCNN
from oculi.detect.keypoint_rcnn import KeypointRCNN
from oculi.detect.retinanet import RetinaNet
from oculi.detect.ssd import SSD
from oculi.hub.renames import Description, Layout, Rules, Tensors, with_epsilon
from oculi.hub.torchvision import MEAN, RESNET, STD, File
from oculi.input_contract import InputContract
from oculi.segment.mask_rcnn import LAYERS, MaskRCNN
from oculi.system import BadCheckpoint

SIZE, SSD_SIZE = 800, 300
SSD_MEAN, SSD_STD = [0.48235, 0.45882, 0.40784], [1 / 255] * 3
SSD_BOXES = [4, 6, 6, 6, 4, 4]  # default boxes of a cell of each map
CLASSES, DELTAS, MASKS = (
    f"roi_heads.{name}." for name in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits")
)  # fmt: skip
POINTS = "roi_heads.keypoint_predictor.kps_score_lowres."
RETINA, SSD_CLASSES = "head.classification_head.cls_logits.", "head.classification_head.module_list."
RETINA_ANCHORS = 9  # of a cell
COCO = [
    "__background__", "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "N/A", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse",
    "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "N/A", "backpack", "umbrella", "N/A", "N/A", "handbag",
    "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove",
    "skateboard", "surfboard", "tennis racket", "bottle", "N/A", "wine glass", "cup", "fork", "knife", "spoon",
    "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake",
    "chair", "couch", "potted plant", "bed", "N/A", "dining table", "N/A", "N/A", "toilet", "N/A", "tv", "laptop",
    "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "N/A",
    "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
]  # fmt: skip


# tables --------------------------------------------------------------------------------------------------------------


def pyramid(prefix: str = "") -> Rules:
    """The rules of a ResNet with a feature pyramid."""
    trunk = {f"backbone.body.{theirs}": f"{prefix}trunk.{ours}" for theirs, ours in RESNET.items() if theirs != "fc.*"}
    return {
        **trunk,
        "backbone.fpn.inner_blocks.#.0.*": f"{prefix}pyramid.lateral.<1>.<2>",
        "backbone.fpn.layer_blocks.#.0.*": f"{prefix}pyramid.smooth.<1>.<2>",
        "backbone.fpn.inner_blocks.#.*": f"{prefix}pyramid.lateral.<1>.<2>",
        "backbone.fpn.layer_blocks.#.*": f"{prefix}pyramid.smooth.<1>.<2>",
    }


def two_stages(prefix: str = "") -> Rules:
    """The rules of Faster R-CNN, which is a part of the others."""
    return {
        **pyramid(prefix),
        "rpn.head.conv.0.0.*": f"{prefix}rpn.conv.<1>",
        "rpn.head.conv.*": f"{prefix}rpn.conv.<1>",
        "rpn.head.cls_logits.*": f"{prefix}rpn.objectness.<1>",
        "rpn.head.bbox_pred.*": f"{prefix}rpn.deltas.<1>",
        "roi_heads.box_head.fc6.*": f"{prefix}head.first.<1>",
        "roi_heads.box_head.fc7.*": f"{prefix}head.second.<1>",
        f"{CLASSES}*": f"{prefix}head.classes.<1>",
        f"{DELTAS}*": f"{prefix}head.deltas.<1>",
    }


MASK_RULES: Rules = {
    **two_stages("detector."),
    "roi_heads.mask_head.#.0.*": "masks.convs.<1>.<2>",
    **{f"roi_heads.mask_head.mask_fcn{i + 1}.*": f"masks.convs.{i}.<1>" for i in range(LAYERS)},
    "roi_heads.mask_predictor.conv5_mask.*": "masks.up.<1>",
    f"{MASKS}*": "masks.logits.<1>",
}
KEYPOINT_RULES: Rules = {
    **two_stages("detector."),
    **{f"roi_heads.keypoint_head.{2 * i}.*": f"points.convs.{i}.<1>" for i in range(8)},
    f"{POINTS}*": "points.up.<1>",
}
RETINA_RULES: Rules = {
    **pyramid(),
    "backbone.fpn.extra_blocks.p6.*": "coarser.0.<1>",
    "backbone.fpn.extra_blocks.p7.*": "coarser.1.<1>",
    **{
        f"head.{theirs}.conv.{number}.*": f"{ours}.convs.{index}.<1>"
        for numbers in (("0.0", "1.0", "2.0", "3.0"), ("0", "2", "4", "6"))  # today's names, then the older ones
        for theirs, ours in (("classification_head", "classes"), ("regression_head", "boxes"))
        for index, number in enumerate(numbers)
    },
    f"{RETINA}*": "classes.output.<1>",
    "head.regression_head.bbox_reg.*": "boxes.output.<1>",
}
_VGG16 = [(0, 2), (5, 7), (10, 12, 14), (17, 19, 21)]  # where in `features` its convolutions stand
SSD_RULES: Rules = {
    **{
        f"backbone.features.{number}.*": f"stages.{stage}.{index}.0.<1>"
        for stage, numbers in enumerate(_VGG16)
        for index, number in enumerate(numbers)
    },
    **{f"backbone.extra.0.{2 * index + 1}.*": f"stages.4.{index}.0.<1>" for index in range(3)},
    "backbone.extra.0.7.1.*": "fc.0.<1>",
    "backbone.extra.0.7.3.*": "fc.2.0.<1>",
    "backbone.extra.#.0.*": "extras.<1-1>.0.0.<2>",
    "backbone.extra.#.2.*": "extras.<1-1>.1.0.<2>",
    "backbone.scale_weight": "length",
    f"{SSD_CLASSES}#.*": "classes.<1>.<2>",
    "head.regression_head.module_list.#.*": "deltas.<1>.<2>",
}


# tensors -------------------------------------------------------------------------------------------------------------


def background_last(tensors: Tensors) -> dict[str, Tensor]:
    """Background last, or gone."""

    def ours(name: str, value: Tensor) -> Tensor:
        if name.startswith(CLASSES):
            return value.roll(-1, 0)
        if name.startswith(DELTAS):
            return value[4:]
        if name.startswith(MASKS):
            return value[1:]
        level = name.removeprefix(SSD_CLASSES).partition(".")[0]
        if level == name or not level.isdecimal() or len(value) % SSD_BOXES[min(int(level), 5)]:
            return value
        return value.unflatten(0, (SSD_BOXES[min(int(level), 5)], -1)).roll(-1, 1).flatten(0, 1)

    return {name: ours(name, value) for name, value in tensors.items()}


def published(tensors: Tensors) -> Tensors:
    """The same for the published files, whose batch norms have no epsilon."""
    return background_last(with_epsilon(tensors, theirs=0.0))


RESNET50 = {"depths": [3, 4, 6, 3], "bottleneck": True}
SHIFTED = {**RESNET50, "pooling": "align_shifted"}
NETWORKS = {
    "fasterrcnn_resnet50_fpn": Layout(FasterRCNN, {**RESNET50, "aligned": False}, two_stages(), background_last),
    "maskrcnn_resnet50_fpn": Layout(MaskRCNN, SHIFTED, MASK_RULES, background_last),
    "keypointrcnn_resnet50_fpn": Layout(KeypointRCNN, SHIFTED, KEYPOINT_RULES, background_last),
    "retinanet_resnet50_fpn": Layout(RetinaNet, RESNET50, RETINA_RULES, background_last),
    "ssd300_vgg16": Layout(SSD, {"strides": [8, 16, 32, 64, 100, 300]}, SSD_RULES, background_last),
}
FILES = {
    "fasterrcnn_resnet50_fpn": File("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"),
    "maskrcnn_resnet50_fpn": File("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"),
    "keypointrcnn_resnet50_fpn": File("keypointrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn_coco-fc266e95.pth"),
    "retinanet_resnet50_fpn": File("retinanet_resnet50_fpn", "retinanet_resnet50_fpn_coco-eeacb38b.pth"),
    "ssd300_vgg16": File("ssd300_vgg16", "ssd300_vgg16_coco-b556d3b4.pth"),
}
# where the classes are counted, how often they stand there, and which of them are none
_COUNTED = {RetinaNet: (f"{RETINA}bias", RETINA_ANCHORS, 0), SSD: (f"{SSD_CLASSES}0.bias", SSD_BOXES[0], 1)}


def describe(file: File, tensors: Tensors) -> Description:
    """All that is known of the file; the classes are counted in the last layer's bias, and named if they are COCO's."""
    layout = NETWORKS[file.network]
    counted, times, background = _COUNTED.get(layout.system, (f"{CLASSES}bias", 1, 1))
    if counted not in tensors:
        raise BadCheckpoint(f"{file.name}: expected {counted}, which counts the classes; it is missing")
    if file in FILES.values():
        layout = replace(layout, convert=published)
    classes = len(tensors[counted]) // times - background
    names = ["person"] if layout.system is KeypointRCNN else COCO[background:]
    single = layout.system is SSD
    size = SSD_SIZE if single else SIZE
    arguments = {"num_classes": classes, "image_size": size}
    if f"{POINTS}bias" in tensors:
        arguments["keypoints"] = len(tensors[f"{POINTS}bias"])
    contract = InputContract(size, size, resize="stretch" if single else "letterbox")
    statistics = (SSD_MEAN, SSD_STD) if single else (MEAN, STD)
    return Description(layout, contract, *statistics, names if len(names) == classes else None, arguments)
