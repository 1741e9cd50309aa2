"""torchvision, timm and other oracles beside a CPU build of torch.

Their wheels are linked against CUDA builds, so the operators of torchvision are missing here. Declaring the operators'
schemas before the import is enough for what is pure Python in them: models, anchors, losses, attacks.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(sys.prefix) / "oracles"
_BOXES = "Tensor dets, Tensor scores, float iou_threshold"
_ROI = "Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width"
_SCHEMAS = (
    f"nms({_BOXES}) -> Tensor",
    f"qnms({_BOXES}) -> Tensor",
    f"roi_align({_ROI}, int sampling_ratio, bool aligned) -> Tensor",
    f"qroi_align({_ROI}, int sampling_ratio, bool aligned) -> Tensor",
    f"roi_pool({_ROI}) -> (Tensor, Tensor)",
    f"ps_roi_align({_ROI}, int sampling_ratio) -> (Tensor, Tensor)",
    f"ps_roi_pool({_ROI}) -> (Tensor, Tensor)",
    "_roi_align_backward(Tensor grad) -> Tensor",
    "_roi_pool_backward(Tensor grad) -> Tensor",
    "_ps_roi_align_backward(Tensor grad) -> Tensor",
    "_ps_roi_pool_backward(Tensor grad) -> Tensor",
    "_deform_conv2d_backward(Tensor grad) -> Tensor",
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, int a, int b, int c, int d,"
    " int e, int f, int g, int h, bool use_mask) -> Tensor",
)
_library = torch.library.Library("torchvision", "FRAGMENT")
for _schema in _SCHEMAS:
    _library.define(_schema)


def oracle(name: str) -> ModuleType:
    """Import an oracle from the folder that `make` installs it into."""
    if not FOLDER.is_dir():
        pytest.skip(f"{name} is not installed: run make test, which puts it into {FOLDER.name}/")
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)


def torchvision() -> ModuleType:
    oracle("torchvision.models.detection")
    return oracle("torchvision")


def timm() -> ModuleType:
    torchvision()
    return oracle("timm")


def torchattacks() -> ModuleType:
    return oracle("torchattacks")
