"""Reference libraries for tests: torchvision and timm, loaded beside a CPU build of torch.

PyPI's torchvision is linked against CUDA torch, so its compiled operators are missing here. Declaring their schemas is
enough for its Python parts; an operator that a test really calls gets a body with `implement`.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align": "(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width,"
    " int sampling_ratio, bool aligned) -> Tensor",
    "qroi_align": "(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width,"
    " int sampling_ratio, bool aligned) -> Tensor",
    "_roi_align_backward": "(Tensor grad, Tensor rois, float spatial_scale, int pooled_height, int pooled_width,"
    " int batch_size, int channels, int height, int width, int sampling_ratio, bool aligned) -> Tensor",
    "roi_pool": "(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width)"
    " -> (Tensor, Tensor)",
    "_roi_pool_backward": "(Tensor grad, Tensor rois, Tensor argmax, float spatial_scale, int pooled_height,"
    " int pooled_width, int batch_size, int channels, int height, int width) -> Tensor",
    "ps_roi_align": "(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width,"
    " int sampling_ratio) -> (Tensor, Tensor)",
    "_ps_roi_align_backward": "(Tensor grad, Tensor rois, Tensor channel_mapping, float spatial_scale,"
    " int pooled_height, int pooled_width, int sampling_ratio, int batch_size, int channels, int height,"
    " int width) -> Tensor",
    "ps_roi_pool": "(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width)"
    " -> (Tensor, Tensor)",
    "_ps_roi_pool_backward": "(Tensor grad, Tensor rois, Tensor channel_mapping, float spatial_scale,"
    " int pooled_height, int pooled_width, int batch_size, int channels, int height, int width) -> Tensor",
    "deform_conv2d": "(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, int stride_h,"
    " int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, int groups, int offset_groups,"
    " bool use_mask) -> Tensor",
    "_deform_conv2d_backward": "(Tensor grad, Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias,"
    " int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, int groups,"
    " int offset_groups, bool use_mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
}

_library = torch.library.Library("torchvision", "FRAGMENT")
_loaded: dict[str, ModuleType] = {}
_bodies: dict[str, Callable] = {}


def implement(name: str, function: Callable) -> None:
    """Give the operator `torchvision::name` a CPU body (forward only: no gradient flows through it), once."""
    if _bodies.get(name, function) is not function:
        raise ValueError(f"{name}: it already has a body, {_bodies[name].__name__}")
    if name not in _bodies:
        _library.impl(name, function, "CPU")
    _bodies[name] = function


def oracle(name: str) -> ModuleType:
    if name in _loaded:
        return _loaded[name]
    folder = Path(sys.prefix) / "oracles"
    if not folder.is_dir():
        pytest.skip("not installed: run make test, which fetches the oracles")
    for operator, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, operator):
            _library.define(operator + schema)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    _loaded[name] = importlib.import_module(name)
    return _loaded[name]


def torchvision() -> ModuleType:
    """The torchvision module; skips the test where the oracles are not installed."""
    return oracle("torchvision")


def timm() -> ModuleType:
    """The timm module; skips the test where the oracles are not installed."""
    torchvision()
    return oracle("timm")


def torchattacks() -> ModuleType:
    """The torchattacks module; skips the test where the oracles are not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return oracle("torchattacks")
