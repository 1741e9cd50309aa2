r"""transformers' checkpoints: `config.json` and `preprocessor_config.json` beside `model.safetensors`.

The preprocessor says how pictures get to the network's size and are normalised; without it the weights are of no use,
so it is required. Where it takes the nearest pixel, as for EfficientNet, whose networks were not trained so, ours are
bilinear. MobileNet and EfficientNet come from TensorFlow: they are padded as there, and their batch norms' epsilon is
larger than ours, which the weights make up for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

from oculi.backbones.convnext import ConvNeXt
from oculi.backbones.efficientnet import EfficientNet
from oculi.backbones.mobilenet_v1 import MobileNetV1
from oculi.backbones.mobilenet_v2 import MobileNetV2
from oculi.backbones.resnet import ResNet
from oculi.backbones.swin import Swin
from oculi.backbones.vit import ViT
from oculi.hub.renames import Description, Layout, Rules, Tensors, numbered, with_epsilon
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


def _both_names(theirs: str, ours: str, names: Iterable[str] = ("convolution", "normalization")) -> dict[str, str]:
    return {f"{theirs}.{name}.*": f"{ours}.{index}.<1>" for index, name in enumerate(names)}


def mobilenet_v1_rules(system: MobileNetV1, names: Iterable[str]) -> Rules:
    """Depthwise and pointwise convolutions are counted through in the file."""
    rules = {**_both_names("conv_stem", "stem"), "classifier.*": "head.<1>"}
    for index, ours in enumerate(numbered(system.state_dict(), "stages.#.#")):
        for part in (0, 1):
            rules |= _both_names(f"layer.{2 * index + part}", f"{ours}.convs.{part}")
    return {f"{prefix}{theirs}": ours for theirs, ours in rules.items() for prefix in ("mobilenet_v1.", "")}


def mobilenet_v2_rules(system: MobileNetV2, names: Iterable[str]) -> Rules:
    """The first block belongs to the stem in the file."""
    first, *blocks = numbered(system.state_dict(), "stages.#.#")
    rules = {
        **_both_names("conv_stem.first_conv", "stem"),
        **_both_names("conv_stem.conv_3x3", f"{first}.depthwise"),
        **_both_names("conv_stem.reduce_1x1", f"{first}.project"),
        **_both_names("conv_1x1", "last"),
        "classifier.*": "head.1.<1>",
    }
    for index, ours in enumerate(blocks):
        for theirs, part in (("expand_1x1", "expand"), ("conv_3x3", "depthwise"), ("reduce_1x1", "project")):
            rules |= _both_names(f"layer.{index}.{theirs}", f"{ours}.{part}")
    return {f"{prefix}{theirs}": ours for theirs, ours in rules.items() for prefix in ("mobilenet_v2.", "")}


def efficientnet_rules(system: EfficientNet, names: Iterable[str]) -> Rules:
    """Blocks are counted through in the file."""
    rules = {
        **_both_names("embeddings", "stem", ("convolution", "batchnorm")),
        **_both_names("encoder", "last", ("top_conv", "top_bn")),
        "classifier.*": "head.1.<1>",
    }
    for index, ours in enumerate(numbered(system.state_dict(), "stages.#.#")):
        theirs = f"encoder.blocks.{index}"
        rules |= _both_names(f"{theirs}.expansion", f"{ours}.expand", ("expand_conv", "expand_bn"))
        depthwise = ("depthwise_conv", "depthwise_norm")
        rules |= _both_names(f"{theirs}.depthwise_conv", f"{ours}.depthwise", depthwise)
        rules |= _both_names(f"{theirs}.projection", f"{ours}.project", ("project_conv", "project_bn"))
        rules[f"{theirs}.squeeze_excite.*"] = f"{ours}.reweight.<1>"
    return {f"{prefix}{theirs}": ours for theirs, ours in rules.items() for prefix in ("efficientnet.", "")}


def _mobilenet_v1(config: Config, source: str) -> Layout:
    expect(config, source, hidden_act="relu6", min_depth=8)
    arguments = {"width": config.get("depth_multiplier", 1.0), "same_padding": config.get("tf_padding", True)}
    convert = partial(with_epsilon, theirs=config.get("layer_norm_eps", 1e-3))
    return Layout(MobileNetV1, arguments, mobilenet_v1_rules, convert)


def _mobilenet_v2(config: Config, source: str) -> Layout:
    expect(config, source, hidden_act="relu6", min_depth=8, depth_divisible_by=8, expand_ratio=6, output_stride=32)
    expect(config, source, first_layer_is_expansion=True, finegrained_output=True)
    arguments = {"width": config.get("depth_multiplier", 1.0), "same_padding": config.get("tf_padding", True)}
    convert = partial(with_epsilon, theirs=config.get("layer_norm_eps", 1e-3))
    return Layout(MobileNetV2, arguments, mobilenet_v2_rules, convert)


def _efficientnet(config: Config, source: str) -> Layout:
    expect(config, source, hidden_act="swish", pooling_type="mean", squeeze_expansion_ratio=0.25, depth_divisor=8)
    expect(config, source, kernel_sizes=[3, 3, 5, 3, 5, 5, 3], strides=[1, 2, 2, 2, 1, 2, 1])
    expect(config, source, num_block_repeats=[1, 2, 2, 3, 3, 4, 1], expand_ratios=[1, 6, 6, 6, 6, 6, 6])
    arguments = {
        "width": config.get("width_coefficient", 2.0),
        "depth": config.get("depth_coefficient", 3.1),
        "dropout": config.get("dropout_rate", 0.5),
        "drop": config.get("drop_connect_rate", 0.2),
        "same_padding": True,
    }
    convert = partial(with_epsilon, theirs=config.get("batch_norm_eps", 1e-3))
    return Layout(EfficientNet, arguments, efficientnet_rules, convert)


NETWORKS: dict[str, Callable[[Config, str], Layout]] = {
    "resnet": _resnet,
    "vit": _vit,
    "convnext": _convnext,
    "swin": _swin,
    "mobilenet_v1": _mobilenet_v1,
    "mobilenet_v2": _mobilenet_v2,
    "efficientnet": _efficientnet,
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
    if preprocessor.get("include_top"):  # EfficientNet's divides by the deviation once more
        std = [value**2 for value in std]
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
    known: dict[int, Literal["bilinear", "bicubic"]] = {0: "bilinear", 2: "bilinear", 3: "bicubic"}
    number = preprocessor.get("resample", 2)
    if number not in known:
        raise BadCheckpoint(f"{source}: resample: expected 0 (nearest), 2 (bilinear) or 3 (bicubic), got {number}")
    return known[number]


def _class_names(config: Config) -> list[str] | None:
    """The names of id2label in order; None where they are only LABEL_0, LABEL_1, ..."""
    labels = {int(index): str(name) for index, name in (config.get("id2label") or {}).items()}
    if not labels or all(name == f"LABEL_{index}" for index, name in labels.items()):
        return None
    return [labels[index] for index in sorted(labels)]
