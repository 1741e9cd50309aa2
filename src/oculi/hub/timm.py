r"""timm's checkpoints: `config.json` (architecture, model_args, pretrained_cfg) beside `model.safetensors`.

The centre is cut as timm does (`crop_pct`, `crop_mode`), always resized bilinearly, where most of timm's
configurations say bicubic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from oculi.backbones.vit import ViT
from oculi.hub import torchvision
from oculi.hub.renames import Description, Layout, Rules
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


def vit(patch: int, width: int, depth: int, heads: int) -> Layout:
    """A ViT or DeiT; the picture's size comes from the configuration."""
    return Layout(ViT, {"patch": patch, "width": width, "depth": depth, "heads": heads}, VIT)


_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
NETWORKS = {
    **{name: torchvision.NETWORKS[name] for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")},
    **{
        f"{family}_{size}_patch{patch}_{pixels}": vit(patch, *_SIZES[size])
        for family in ("vit", "deit")
        for size in _SIZES
        for patch in (8, 16, 32)
        for pixels in (224, 384)
    },
}
POOLS = {"ResNet": "avg", "ViT": "token"}  # the pooling that our network has; other networks have averages
MODES: dict[str, Literal["stretch", "letterbox", "crop"]] = {
    "center": "crop",
    "squash": "stretch",
    "border": "letterbox",
}
# what `model_args` may say without changing which network it is; rates are for training alone
_HARMLESS = {"num_classes", "in_chans", "global_pool", "img_size", "drop_rate", "drop_path_rate", "proj_drop_rate"}


def describe(config: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> Description:
    """What the configuration says. Raises BadCheckpoint for a network that is not in the table."""
    layout = NETWORKS.get(config["architecture"])
    if layout is None:
        raise BadCheckpoint(
            f"{source}: architecture: expected one of {', '.join(NETWORKS)}, got {config['architecture']}"
        )
    options, settings = config.get("model_args") or {}, config["pretrained_cfg"]
    unknown = sorted(set(options) - _HARMLESS)
    if unknown:
        raise BadCheckpoint(f"{source}: model_args: {', '.join(unknown)} cannot be set")
    pool, wanted = config.get("global_pool") or "", POOLS.get(layout.system.__name__, "avg")
    if pool not in ("", wanted):
        raise BadCheckpoint(f"{source}: global_pool: expected {wanted}, got {pool}")
    channels, height, width = settings["input_size"]
    if options.get("img_size"):
        size = options["img_size"]
        height, width = size if isinstance(size, list) else (size, size)
    resize = MODES.get(settings.get("crop_mode", "center"), "crop")
    fraction = settings.get("crop_pct", 0.875) if resize == "crop" else 1.0
    channels = options.get("in_chans", channels)
    arguments = {"num_classes": config["num_classes"], "image_size": height, "in_channels": channels}
    contract = InputContract(height, width, channels, resize, crop_fraction=fraction)
    names = settings.get("label_names")
    return Description(layout, contract, settings["mean"], settings["std"], names, arguments)
