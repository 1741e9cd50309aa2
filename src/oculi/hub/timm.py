r"""timm's checkpoints: `config.json` (architecture, model_args, pretrained_cfg) beside `model.safetensors`.

The centre is cut and resized as timm does (`crop_pct`, `crop_mode`, `interpolation`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal

from torch import Tensor

from oculi.backbones.convnext import ConvNeXt
from oculi.backbones.efficientnet import VARIANTS, EfficientNet
from oculi.backbones.mobilenet_v1 import MobileNetV1
from oculi.backbones.mobilenet_v2 import MobileNetV2
from oculi.backbones.se_resnet import SEResNet
from oculi.backbones.swin import Swin
from oculi.backbones.vgg import VGG
from oculi.backbones.vit import ViT
from oculi.backbones.xception import Xception
from oculi.hub import torchvision
from oculi.hub.renames import Description, Layout, Rules, nearest, numbered, with_epsilon
from oculi.input_contract import InputContract
from oculi.system import BadCheckpoint

VIT: Rules = {
    "cls_token": "cls",
    "pos_embed": "positions",
    "patch_embed.proj.*": "patches.<1>",
    "blocks.#.norm#.*": "blocks.<1>.norms.<2-1>.<3>",
    "blocks.#.attn.qkv.*": ("blocks.<1>.attention.query.<2>", "blocks.<1>.attention.key_value.<2>"),
    "blocks.#.attn.proj.*": "blocks.<1>.attention.out.<2>",
    "blocks.#.mlp.fc1.*": "blocks.<1>.mlp.0.<2>",
    "blocks.#.mlp.fc2.*": "blocks.<1>.mlp.3.<2>",
    "norm.*": "norm.<1>",
    "head.*": "head.<1>",
}
SE_RESNET: Rules = {
    **{
        f"layer#.#.se.fc{i}.*": f"resnet.stages.<1-1>.<2>.convs.2.2.{ours}.<3>"
        for i, ours in ((1, "reduce"), (2, "expand"))
    },
    **{theirs: f"resnet.{ours}" for theirs, ours in torchvision.RESNET.items()},
}
CONVNEXT: Rules = {
    "stem.#.*": "entries.0.<1>.<2>",
    "stages.#.downsample.#.*": "entries.<1>.<2>.<3>",
    "stages.#.blocks.#.gamma": "stages.<1>.<2>.scale",
    "stages.#.blocks.#.conv_dw.*": "stages.<1>.<2>.depthwise.<3>",
    "stages.#.blocks.#.norm.*": "stages.<1>.<2>.norm.<3>",
    "stages.#.blocks.#.mlp.fc1.*": "stages.<1>.<2>.mlp.0.<3>",
    "stages.#.blocks.#.mlp.fc2.*": "stages.<1>.<2>.mlp.2.<3>",
    "head.norm.*": "norm.<1>",
    "head.fc.*": "head.<1>",
}
SWIN: Rules = {
    "patch_embed.proj.*": "patches.<1>",
    "patch_embed.norm.*": "patches_norm.<1>",
    "layers.#.downsample.reduction.*": "merges.<1>.reduce.<2>",
    "layers.#.downsample.norm.*": "merges.<1>.norm.<2>",
    "layers.#.blocks.#.norm#.*": "stages.<1>.<2>.norms.<3-1>.<4>",
    "layers.#.blocks.#.attn.qkv.*": "stages.<1>.<2>.attention.query_key_value.<3>",
    "layers.#.blocks.#.attn.proj.*": "stages.<1>.<2>.attention.out.<3>",
    "layers.#.blocks.#.attn.relative_position_bias_table": "stages.<1>.<2>.attention.table",
    "layers.#.blocks.#.attn.relative_position_index": None,
    "layers.#.blocks.#.attn_mask": None,
    "layers.#.blocks.#.mlp.fc1.*": "stages.<1>.<2>.mlp.0.<3>",
    "layers.#.blocks.#.mlp.fc2.*": "stages.<1>.<2>.mlp.2.<3>",
    "norm.*": "norm.<1>",
    "head.fc.*": "head.<1>",
}
MOBILENET_V1: Rules = {
    "conv_stem.*": "stem.0.<1>",
    "bn1.*": "stem.1.<1>",
    "blocks.#.#.conv_dw.*": "stages.<1>.<2>.convs.0.0.<3>",
    "blocks.#.#.bn1.*": "stages.<1>.<2>.convs.0.1.<3>",
    "blocks.#.#.conv_pw.*": "stages.<1>.<2>.convs.1.0.<3>",
    "blocks.#.#.bn2.*": "stages.<1>.<2>.convs.1.1.<3>",
    "classifier.*": "head.<1>",
}
_PLACES = ["stages.0", "stages.1", *(f"stages.2.{block}" for block in range(9)), "stages.3"]
XCEPTION: Rules = {
    **{f"conv{i}.weight": f"stem.{i - 1}.0.weight" for i in (1, 2)},
    **{f"bn{i}.*": f"stem.{i - 1}.1.<1>" for i in (1, 2)},
    **{
        f"block{block}.{theirs}.*": f"{place}.{ours}.<1>"
        for block, place in enumerate(_PLACES, 1)
        for conv, first in enumerate((0, 3) if block == 1 else (1, 4, 7))  # the first block does not begin with a ReLU
        for theirs, ours in {
            f"rep.{first}.conv1": f"convs.{conv}.0.depthwise",
            f"rep.{first}.pointwise": f"convs.{conv}.0.pointwise",
            f"rep.{first + 1}": f"convs.{conv}.1",
            "skip": "skip.0",
            "skipbn": "skip.1",
        }.items()
    },
    **{f"conv{i}.conv1.*": f"final.{i - 3}.0.depthwise.<1>" for i in (3, 4)},
    **{f"conv{i}.pointwise.*": f"final.{i - 3}.0.pointwise.<1>" for i in (3, 4)},
    **{f"bn{i}.*": f"final.{i - 3}.1.<1>" for i in (3, 4)},
    "fc.*": "head.<1>",
}


def inverted_residual_rules(system: MobileNetV2 | EfficientNet, names: Iterable[str]) -> Rules:
    """MobileNetV2 and EfficientNet; a block without an expansion calls its last convolution conv_pw, not conv_pwl."""
    rules = {
        "conv_stem.*": "stem.0.<1>",
        "bn1.*": "stem.1.<1>",
        "conv_head.*": "last.0.<1>",
        "bn2.*": "last.1.<1>",
        "classifier.*": "head.1.<1>",
    }
    for theirs, ours in zip(numbered(names, "blocks.#.#"), numbered(system.state_dict(), "stages.#.#")):
        parts = [("conv_dw", "depthwise"), ("conv_pw", "project")]
        if system.get_submodule(ours).expand is not None:
            parts = [("conv_pw", "expand"), ("conv_dw", "depthwise"), ("conv_pwl", "project")]
        for index, (conv, part) in enumerate(parts, 1):
            rules |= {f"{theirs}.{conv}.*": f"{ours}.{part}.0.<1>", f"{theirs}.bn{index}.*": f"{ours}.{part}.1.<1>"}
        rules |= {f"{theirs}.se.conv_{part}.*": f"{ours}.reweight.{part}.<1>" for part in ("reduce", "expand")}
    return rules


def vgg_rules(system: VGG, names: Iterable[str]) -> Rules:
    """torchvision's, but for the fully connected layers, which timm has as convolutions over the whole map."""
    last = {f"pre_logits.fc{number}.*": f"hidden.{number - 1}.<1>" for number in (1, 2)} | {"head.fc.*": "head.<1>"}
    return {**torchvision.vgg_rules(system, names), **last}


def vit(patch: int, width: int, depth: int, heads: int) -> Layout:
    """A ViT or DeiT; the picture's size comes from the configuration."""
    return Layout(ViT, {"patch": patch, "width": width, "depth": depth, "heads": heads}, VIT)


_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
_VITS = [
    *("vit_tiny_patch16_224", "vit_tiny_patch16_384", "vit_small_patch8_224", "vit_small_patch16_224"),
    *("vit_small_patch16_384", "vit_small_patch32_224", "vit_small_patch32_384", "vit_base_patch8_224"),
    *("vit_base_patch16_224", "vit_base_patch16_384", "vit_base_patch32_224", "vit_base_patch32_384"),
    *("vit_large_patch16_224", "vit_large_patch16_384", "vit_large_patch32_224", "vit_large_patch32_384"),
    *("deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224", "deit_base_patch16_384"),
]
_SWINS = {  # width, depths, heads
    "tiny": (96, [2, 2, 6, 2], [3, 6, 12, 24]),
    "small": (96, [2, 2, 18, 2], [3, 6, 12, 24]),
    "base": (128, [2, 2, 18, 2], [4, 8, 16, 32]),
    "large": (192, [2, 2, 18, 2], [6, 12, 24, 48]),
}
_AS_IN_TORCHVISION = [
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *(f"densenet{depth}" for depth in (121, 161, 169, 201)),
]
NETWORKS = {
    **{name: torchvision.NETWORKS[name] for name in _AS_IN_TORCHVISION},
    **{
        name: Layout(VGG, torchvision.NETWORKS[name].arguments, vgg_rules)
        for depth in (11, 13, 16, 19)
        for name in (f"vgg{depth}", f"vgg{depth}_bn")
    },
    "seresnet50": Layout(SEResNet, {}, SE_RESNET),
    "seresnet101": Layout(SEResNet, {"depths": [3, 4, 23, 3]}, SE_RESNET),
    "seresnet152": Layout(SEResNet, {"depths": [3, 8, 36, 3]}, SE_RESNET),
    "legacy_xception": Layout(Xception, {}, XCEPTION),
    "mobilenetv1_100": Layout(MobileNetV1, {}, MOBILENET_V1),
    **{
        f"mobilenetv2_{percent:03d}": Layout(MobileNetV2, {"width": percent / 100}, inverted_residual_rules)
        for percent in (35, 50, 75, 100, 140)
    },
    **{
        f"efficientnet_{name}": Layout(
            EfficientNet, {"width": width, "depth": depth, "dropout": dropout}, inverted_residual_rules
        )  # not by variant, as the largest have another epsilon in ours
        for name, (width, depth, _, dropout) in VARIANTS.items()
    },
    **{  # from TensorFlow, whose batch norms' epsilon the weights make up for
        f"tf_efficientnet_{name}": Layout(
            EfficientNet,
            {"width": width, "depth": depth, "dropout": dropout, "same_padding": True},
            inverted_residual_rules,
            partial(with_epsilon, theirs=1e-3),
        )
        for name, (width, depth, _, dropout) in VARIANTS.items()
    },
    **{
        f"convnext_{name}": Layout(ConvNeXt, torchvision.NETWORKS[f"convnext_{name}"].arguments, CONVNEXT)
        for name in ("tiny", "small", "base", "large")
    },
    **{
        f"swin_{name}_patch4_window{window}_{pixels}": Layout(
            Swin, {"width": width, "depths": depths, "heads": heads, "window": window}, SWIN
        )
        for name, (width, depths, heads) in _SWINS.items()
        for window, pixels in ((7, 224), (12, 384))
        if window == 7 or name in ("base", "large")
    },
    **{name: vit(int(name.split("_")[2][5:]), *_SIZES[name.split("_")[1]]) for name in _VITS},
}
MODES: dict[str, Literal["stretch", "letterbox", "crop"]] = {
    "center": "crop",
    "squash": "stretch",
    "border": "letterbox",
}
# what `model_args` may say without changing which network it is; rates are for training alone
_HARMLESS = {"num_classes", "in_chans", "global_pool", "img_size", "drop_rate", "drop_path_rate", "proj_drop_rate"}


def describe(config: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> Description:
    """What the configuration says. Raises BadCheckpoint for a network that is not in the table."""
    name = config["architecture"]
    if name not in NETWORKS:
        raise BadCheckpoint(f"{source}: architecture: {nearest(NETWORKS, name)}")
    layout = NETWORKS[name]
    options, settings = config.get("model_args") or {}, config["pretrained_cfg"]
    unknown = sorted(set(options) - _HARMLESS)
    if unknown:
        raise BadCheckpoint(f"{source}: model_args: {', '.join(unknown)} cannot be set")
    pool, wanted = config.get("global_pool") or "", "token" if layout.system is ViT else "avg"
    if pool not in ("", wanted):
        raise BadCheckpoint(f"{source}: global_pool: expected {wanted}, got {pool}")
    channels, height, width = settings["input_size"]
    if options.get("img_size"):
        size = options["img_size"]
        height, width = size if isinstance(size, list) else (size, size)
    resize = MODES.get(settings.get("crop_mode", "center"), "crop")
    fraction = settings.get("crop_pct", 0.875) if resize == "crop" else 1.0
    fraction = min(height, width) / math.floor(
        min(height, width) / fraction
    )  # timm resizes to whole pixels, rounded down
    channels = options.get("in_chans", channels)
    arguments = {"num_classes": config["num_classes"], "image_size": height, "in_channels": channels}
    contract = InputContract(
        height, width, channels, resize, crop_fraction=fraction, interpolation=_interpolation(settings, source)
    )
    names = settings.get("label_names")
    return Description(layout, contract, settings["mean"], settings["std"], names, arguments)


def _interpolation(settings: Mapping[str, Any], source: str) -> Literal["bilinear", "bicubic"]:
    """timm's own word; `random` is what training did."""
    name = settings.get("interpolation", "bilinear")
    if name not in ("bilinear", "bicubic", "random"):
        raise BadCheckpoint(f"{source}: interpolation: expected bilinear or bicubic, got {name}")
    return "bicubic" if name == "bicubic" else "bilinear"
