r"""torchvision's published segmenters, FCN and DeepLabv3 on ResNets, trained on COCO's pictures of Pascal VOC's 20 classes.

Pictures are letterboxed into the size that torchvision gives their shorter side, so that one size holds any of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from oculi.hub.renames import Description, Layout, Rules
from oculi.hub.torchvision import MEAN, RESNET, STD, File
from oculi.input_contract import InputContract
from oculi.segment.deeplabv3plus import DeepLabV3Plus
from oculi.segment.fcn import FCN
from oculi.system import BadCheckpoint

SIZE = 520
CLASSES = [
    "__background__", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus",
    "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip

_BACKBONE: Rules = {
    f"backbone.{theirs}": f"backbone.{ours}" for theirs, ours in RESNET.items() if not theirs.startswith("fc.")
}
_AUXILIARY: Rules = {"aux_classifier.#.*": "auxiliary.<1>.<2>"}
FCN_RULES: Rules = {**_BACKBONE, "classifier.#.*": "head.<1>.<2>", **_AUXILIARY}
DEEPLAB_RULES: Rules = {
    **_BACKBONE,
    "classifier.0.convs.4.1.*": "encoder.0.picture.0.<1>",
    "classifier.0.convs.4.2.*": "encoder.0.picture.1.<1>",
    "classifier.0.convs.#.#.*": "encoder.0.branches.<1>.<2>.<3>",
    "classifier.0.project.#.*": "encoder.0.project.<1>.<2>",
    "classifier.1.*": "encoder.1.<1>",
    "classifier.2.*": "encoder.2.<1>",
    "classifier.4.*": "head.<1>",
    **_AUXILIARY,
}
_DEPTHS = {"resnet50": [3, 4, 6, 3], "resnet101": [3, 4, 23, 3]}
_V3 = {"version": "v3", "output_stride": 8, "rates": [12, 24, 36]}
NETWORKS = {
    **{f"fcn_{n}": Layout(FCN, {"upsampling": "bilinear", "depths": d}, FCN_RULES) for n, d in _DEPTHS.items()},
    **{f"deeplabv3_{n}": Layout(DeepLabV3Plus, {**_V3, "depths": d}, DEEPLAB_RULES) for n, d in _DEPTHS.items()},
}
FILES = {
    "fcn_resnet50": File("fcn_resnet50", "fcn_resnet50_coco-1167a1af.pth"),
    "fcn_resnet101": File("fcn_resnet101", "fcn_resnet101_coco-7ecb50ca.pth"),
    "deeplabv3_resnet50": File("deeplabv3_resnet50", "deeplabv3_resnet50_coco-cd0a2569.pth"),
    "deeplabv3_resnet101": File("deeplabv3_resnet101", "deeplabv3_resnet101_coco-586e9e4e.pth"),
}


def describe(file: File, tensors: Mapping[str, Tensor]) -> Description:
    """All that is known of the file; the classes are counted in the last layer's bias, and named if they are VOC's."""
    layout = NETWORKS[file.network]
    if "classifier.4.bias" not in tensors:
        raise BadCheckpoint(f"{file.name}: classifier.4.bias is missing")
    classes = len(tensors["classifier.4.bias"])
    arguments: dict[str, int | bool] = {"num_classes": classes, "image_size": SIZE}
    if layout.system is FCN:
        arguments["auxiliary"] = any(name.startswith("aux_classifier.") for name in tensors)
    contract = InputContract(SIZE, SIZE, resize="letterbox")
    names = CLASSES if classes == len(CLASSES) else None
    return Description(layout, contract, MEAN, STD, names, arguments)
