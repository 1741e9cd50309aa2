r"""transformers' checkpoints: `config.json` and `preprocessor_config.json` beside `model.safetensors`.

The preprocessor says how pictures get to the network's size and are normalised; without it the weights are of no use,
so it is required.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from oculi.backbones.convnext import ConvNeXt
from oculi.backbones.resnet import ResNet
from oculi.backbones.swin import Swin
from oculi.backbones.vit import ViT
from oculi.hub.renames import Description, Layout, Rules, Tensors
from oculi.input_contract import InputContract
from oculi.system import BadCheckpoint

Config = Mapping[str, Any]

_RESNET_BODY = {
    "embedder.embedder.convolution.*": "stem.0.<1>",
    "embedder.embedder.normalization.*": "stem.1.<1>",
    "encoder.stages.#.layers.#.layer.#.convolution.*": "stages.<1>.<2>.convs.<3>.0.<4>",
    "encoder.stages.#.layers.#.layer.#.normalization.*": "stages.<1>.<2>.convs.<3>.1.<4>",
    "encoder.stages.#.layers.#.shortcut.convolution.*": "stages.<1>.<2>.skip.0.<3>",
    "encoder.stages.#.layers.#.shortcut.normalization.*": "stages.<1>.<2>.skip.1.<3>",
}
_VIT_BODY = {
    "embeddings.cls_token": "cls",
    "embeddings.position_embeddings": "positions",
    "embeddings.patch_embeddings.projection.*": "patches.<1>",
    "encoder.layer.#.layernorm_before.*": "blocks.<1>.norms.0.<2>",
    "encoder.layer.#.attention.attention.query.*": "blocks.<1>.attention.query.<2>",
    "encoder.layer.#.attention.attention.key.*": "blocks.<1>.attention.key_value.<2> 1/2",
    "encoder.layer.#.attention.attention.value.*": "blocks.<1>.attention.key_value.<2> 2/2",
    "encoder.layer.#.attention.output.dense.*": "blocks.<1>.attention.out.<2>",
    "encoder.layer.#.layernorm_after.*": "blocks.<1>.norms.1.<2>",
    "encoder.layer.#.intermediate.dense.*": "blocks.<1>.mlp.0.<2>",
    "encoder.layer.#.output.dense.*": "blocks.<1>.mlp.3.<2>",
    "layernorm.*": "norm.<1>",
    "pooler.*": None,  # the tanh layer of the bare model, which nothing after it uses
    "embeddings.mask_token": None,  # of masked pre-training
}
_CONVNEXT_BODY = {
    "embeddings.patch_embeddings.*": "entries.0.0.<1>",
    "embeddings.layernorm.*": "entries.0.1.<1>",
    "encoder.stages.#.downsampling_layer.#.*": "entries.<1>.<2>.<3>",
    "encoder.stages.#.layers.#.layer_scale_parameter": "stages.<1>.<2>.scale",
    "encoder.stages.#.layers.#.dwconv.*": "stages.<1>.<2>.depthwise.<3>",
    "encoder.stages.#.layers.#.layernorm.*": "stages.<1>.<2>.norm.<3>",
    "encoder.stages.#.layers.#.pwconv1.*": "stages.<1>.<2>.mlp.0.<3>",
    "encoder.stages.#.layers.#.pwconv2.*": "stages.<1>.<2>.mlp.2.<3>",
    "layernorm.*": "norm.<1>",
}
_SWIN_BODY = {
    "embeddings.patch_embeddings.projection.*": "patches.<1>",
    "embeddings.norm.*": "patches_norm.<1>",
    "embeddings.mask_token": None,  # of masked pre-training
    "encoder.layers.#.downsample.reduction.*": "merges.<1+1>.reduce.<2>",
    "encoder.layers.#.downsample.norm.*": "merges.<1+1>.norm.<2>",
    "encoder.layers.#.blocks.#.layernorm_before.*": "stages.<1>.<2>.norms.0.<3>",
    "encoder.layers.#.blocks.#.layernorm_after.*": "stages.<1>.<2>.norms.1.<3>",
    "encoder.layers.#.blocks.#.attention.self.query.*": "stages.<1>.<2>.attention.query_key_value.<3> 1/3",
    "encoder.layers.#.blocks.#.attention.self.key.*": "stages.<1>.<2>.attention.query_key_value.<3> 2/3",
    "encoder.layers.#.blocks.#.attention.self.value.*": "stages.<1>.<2>.attention.query_key_value.<3> 3/3",
    "encoder.layers.#.blocks.#.attention.self.relative_position_bias_table": "stages.<1>.<2>.attention.table",
    "encoder.layers.#.blocks.#.attention.self.relative_position_index": None,
    "encoder.layers.#.blocks.#.attention.output.dense.*": "stages.<1>.<2>.attention.out.<3>",
    "encoder.layers.#.blocks.#.intermediate.dense.*": "stages.<1>.<2>.mlp.0.<3>",
    "encoder.layers.#.blocks.#.output.dense.*": "stages.<1>.<2>.mlp.2.<3>",
    "layernorm.*": "norm.<1>",
}


def _both(prefix: str, body: Rules, head: Rules) -> Rules:
    """Rules for a bare body and for one under `prefix` with a head."""
    return {**{prefix + theirs: ours for theirs, ours in body.items()}, **head, **body}


RESNET = _both("resnet.", _RESNET_BODY, {"classifier.1.*": "head.<1>"})
VIT = _both("vit.", _VIT_BODY, {"classifier.*": "head.<1>"})
CONVNEXT = _both("convnext.", _CONVNEXT_BODY, {"classifier.*": "head.<1>"})
SWIN = _both("swin.", _SWIN_BODY, {"classifier.*": "head.<1>"})


def expect(config: Config, source: str, **wanted: Any) -> None:
    """Settings which ours has in one way only; where the configuration is silent they are transformers' defaults."""
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise BadCheckpoint(f"{source}: {name}: expected {value!r}, got {config[name]!r}")


def _resnet(config: Config, source: str) -> Layout:
    bottleneck, width = config.get("layer_type", "bottleneck") == "bottleneck", config.get("embedding_size", 64)
    sizes = [width * 2**stage * (4 if bottleneck else 1) for stage in range(len(config["depths"]))]
    expect(config, source, hidden_sizes=sizes, hidden_act="relu")
    expect(config, source, downsample_in_first_stage=False, downsample_in_bottleneck=False)
    return Layout(ResNet, {"depths": config["depths"], "bottleneck": bottleneck, "width": width}, RESNET)


def _vit(config: Config, source: str) -> Layout:
    expect(config, source, hidden_act="gelu", qkv_bias=True)
    arguments = {
        "patch": config.get("patch_size", 16),
        "width": config.get("hidden_size", 768),
        "depth": config.get("num_hidden_layers", 12),
        "heads": config.get("num_attention_heads", 12),
        "hidden": config.get("intermediate_size", 3072),
        "eps": config.get("layer_norm_eps", 1e-12),
        "image_size": config.get("image_size", 224),
    }
    return Layout(ViT, arguments, VIT)


def _convnext(config: Config, source: str) -> Layout:
    expect(config, source, hidden_act="gelu")
    arguments = {
        "depths": config.get("depths") or [3, 3, 9, 3],
        "widths": config.get("hidden_sizes") or [96, 192, 384, 768],
        "patch": config.get("patch_size", 4),
        "eps": config.get("layer_norm_eps", 1e-12),  # of the last norm alone
    }
    return Layout(ConvNeXt, arguments, CONVNEXT)


def _swin(config: Config, source: str) -> Layout:
    expect(config, source, hidden_act="gelu", qkv_bias=True, mlp_ratio=4.0, layer_norm_eps=1e-5)
    expect(config, source, use_absolute_embeddings=False)
    arguments = {
        "width": config.get("embed_dim", 96),
        "depths": config.get("depths", [2, 2, 6, 2]),
        "heads": config.get("num_heads", [3, 6, 12, 24]),
        "window": config.get("window_size", 7),
        "patch": config.get("patch_size", 4),
    }
    return Layout(Swin, arguments, SWIN)


NETWORKS: dict[str, Callable[[Config, str], Layout]] = {
    "resnet": _resnet,
    "vit": _vit,
    "convnext": _convnext,
    "swin": _swin,
}
HEADS = ("classifier.bias", "classifier.1.bias")


def describe(config: Config, preprocessor: Config, tensors: Tensors, source: str) -> Description:
    """What the two configurations say. Raises BadCheckpoint for a network or a setting that ours does not have."""
    layout = NETWORKS[config["model_type"]](config, source)
    channels = config.get("num_channels", 3)
    contract = _contract(preprocessor, channels, source)
    classes = next((len(tensors[name]) for name in HEADS if name in tensors), 0)
    arguments = {"image_size": contract.height, **layout.arguments, "num_classes": classes, "in_channels": channels}
    mean, std = preprocessor["image_mean"], preprocessor["image_std"]
    if not preprocessor.get("do_normalize", True):
        mean, std = [0.0] * channels, [1.0] * channels
    return Description(layout, contract, mean, std, _class_names(config) if classes else None, arguments)


def _contract(preprocessor: Config, channels: int, source: str) -> InputContract:
    """`size` is a number, {height, width} or {shortest_edge}; the crop is `crop_size`, or `crop_pct` as in ConvNeXt."""
    size, how = preprocessor["size"], _interpolation(preprocessor, source)
    if isinstance(size, int):
        kind = str(preprocessor.get("image_processor_type") or preprocessor.get("feature_extractor_type"))
        stretched = preprocessor.get("crop_pct") is None and not kind.startswith("ConvNext")
        size = {"height": size, "width": size} if stretched else {"shortest_edge": size}
    if preprocessor.get("do_center_crop"):
        crop = preprocessor["crop_size"]
        height, width = (crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"])
        shortest = size.get("shortest_edge") or min(size["height"], size["width"])
        return InputContract(
            height, width, channels, "crop", crop_fraction=max(height, width) / shortest, interpolation=how
        )
    if "height" in size:
        return InputContract(size["height"], size["width"], channels, interpolation=how)
    if "shortest_edge" in size:
        edge = size["shortest_edge"]
        if edge >= 384:  # ConvNeXt's rule: large pictures are stretched, not cut
            return InputContract(edge, edge, channels, interpolation=how)
        fraction = preprocessor.get("crop_pct") or 224 / 256
        return InputContract(edge, edge, channels, "crop", crop_fraction=fraction, interpolation=how)
    raise BadCheckpoint(f"{source}: size: expected height and width or shortest_edge, got {size}")


def _interpolation(preprocessor: Config, source: str) -> Literal["bilinear", "bicubic"]:
    """`resample` is one of Pillow's numbers."""
    known: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
    number = preprocessor.get("resample", 2)
    if number not in known:
        raise BadCheckpoint(f"{source}: resample: expected 2 (bilinear) or 3 (bicubic), got {number}")
    return known[number]


def _class_names(config: Config) -> list[str] | None:
    """The names of id2label in order; None where they are only LABEL_0, LABEL_1, ..."""
    labels = {int(index): str(name) for index, name in (config.get("id2label") or {}).items()}
    if not labels or all(name == f"LABEL_{index}" for index, name in labels.items()):
        return None
    return [labels[index] for index in sorted(labels)]
