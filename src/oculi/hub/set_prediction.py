r"""transformers' checkpoints of DETR and MaskFormer with ResNets, the trunk being transformers' own or timm's.

Pictures are letterboxed into the size that the preprocessor gives their shorter side, so that one size holds any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from oculi.detect.detr import DETR
from oculi.hub import torchvision, transformers
from oculi.hub.renames import Description, Layout, Rules
from oculi.input_contract import InputContract
from oculi.segment.maskformer import MaskFormer
from oculi.system import BadCheckpoint

Config = Mapping[str, Any]
Tensors = Mapping[str, Tensor]


def _attention(theirs: str, ours: str) -> dict[str, str]:
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    return {f"{theirs}.{name}.*": f"{ours}.{own}.<2>" for name, own in names.items()}


def _layer(theirs: str, ours: str) -> dict[str, str]:
    return {
        f"{theirs}.fc1.*": f"{ours}.feed_forward.first.<2>",
        f"{theirs}.fc2.*": f"{ours}.feed_forward.second.<2>",
        f"{theirs}.final_layer_norm.*": f"{ours}.feed_forward.norm.<2>",
    }


def _decoder(prefix: str) -> dict[str, str]:
    theirs, ours = f"{prefix}.layers.#", "decoder.layers.<1>"
    return {
        f"{prefix}.layernorm.*": "decoder.norm.<1>",
        **_attention(f"{theirs}.self_attn", f"{ours}.among"),
        f"{theirs}.self_attn_layer_norm.*": f"{ours}.among_norm.<2>",
        **_attention(f"{theirs}.encoder_attn", f"{ours}.cross"),
        f"{theirs}.encoder_attn_layer_norm.*": f"{ours}.cross_norm.<2>",
        **_layer(theirs, ours),
    }


def _trunk(prefix: str, rules: Rules) -> Rules:
    return {f"{prefix}.{theirs}": f"trunk.{ours}" for theirs, ours in rules.items() if isinstance(ours, str)}


def _perceptron(theirs: str, ours: str) -> dict[str, str]:
    return {theirs.replace("#", str(index)): f"{ours}.{2 * index}.<1>" for index in range(3)}


_DETR_TRUNK = "model.backbone.conv_encoder.model"
DETR_RULES: Rules = {
    **_trunk(_DETR_TRUNK, transformers.RESNET),
    **_trunk(_DETR_TRUNK, torchvision.RESNET),
    "model.input_projection.*": "project.<1>",
    "model.query_position_embeddings.weight": "decoder.queries",
    **_attention("model.encoder.layers.#.self_attn", "encoder.<1>.attention"),
    "model.encoder.layers.#.self_attn_layer_norm.*": "encoder.<1>.norm.<2>",
    **_layer("model.encoder.layers.#", "encoder.<1>"),
    **_decoder("model.decoder"),
    "class_labels_classifier.*": "classes.<1>",
    **_perceptron("bbox_predictor.layers.#.*", "boxes"),
}
_LEVELS = "model.pixel_level_module"
MASKFORMER_RULES: Rules = {
    **_trunk(f"{_LEVELS}.encoder", transformers.RESNET),
    f"{_LEVELS}.decoder.fpn.stem.#.*": "pixels.stem.<1>.<2>",
    f"{_LEVELS}.decoder.fpn.layers.#.proj.#.*": "pixels.lateral.<1>.<2>.<3>",
    f"{_LEVELS}.decoder.fpn.layers.#.block.#.*": "pixels.merge.<1>.<2>.<3>",
    f"{_LEVELS}.decoder.mask_projection.*": "pixels.last.<1>",
    "model.transformer_module.queries_embedder.weight": "decoder.queries",
    "model.transformer_module.input_projection.*": "project.<1>",
    **_decoder("model.transformer_module.decoder"),
    "class_predictor.*": "classes.<1>",
    **_perceptron("mask_embedder.#.0.*", "embedding"),
    "criterion.empty_weight": None,
}
_TIMM = {"resnet50": [3, 4, 6, 3], "resnet101": [3, 4, 23, 3]}


def _resnet(config: Config, source: str) -> dict[str, Any]:
    """The trunk's arguments: a configuration of its own, or the name of one of timm's."""
    own = config.get("backbone_config") or {}
    if own.get("model_type") == "resnet":
        return dict(transformers.NETWORKS["resnet"](own, source).arguments)
    name = own.get("backbone") or config.get("backbone")
    if name not in _TIMM:
        raise BadCheckpoint(f"{source}: backbone: expected a ResNet, {' or '.join(_TIMM)}; got {name or own}")
    return {"depths": _TIMM[name], "bottleneck": True, "width": 64}


def _expect(config: Config, source: str, **wanted: Any) -> None:
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise BadCheckpoint(f"{source}: {name}: expected {value!r}, got {config[name]!r}")


def _detr(config: Config, source: str) -> Layout:
    _expect(config, source, position_embedding_type="sine", activation_function="relu", dilation=False)
    heads, hidden = config.get("encoder_attention_heads", 8), config.get("encoder_ffn_dim", 2048)
    _expect(config, source, decoder_attention_heads=heads, decoder_ffn_dim=hidden)
    arguments = {
        **_resnet(config, source),
        "channels": config.get("d_model", 256),
        "heads": heads,
        "hidden": hidden,
        "layers": [config.get("encoder_layers", 6), config.get("decoder_layers", 6)],
        "queries": config.get("num_queries", 100),
        "dropout": config.get("dropout", 0.1),
    }
    return Layout(DETR, arguments, DETR_RULES)


def _maskformer(config: Config, source: str) -> Layout:
    decoder = config.get("decoder_config") or {}
    width = decoder.get("d_model", 256)
    _expect(decoder, source, model_type="detr", activation_function="relu")
    _expect(config, source, fpn_feature_size=width, mask_feature_size=width)
    arguments = {
        **_resnet(config, source),
        "channels": width,
        "heads": decoder.get("decoder_attention_heads", 8),
        "hidden": decoder.get("decoder_ffn_dim", 2048),
        "layers": decoder.get("decoder_layers", 6),
        "queries": decoder.get("num_queries", 100),
    }
    return Layout(MaskFormer, arguments, MASKFORMER_RULES)


NETWORKS: dict[str, Callable[[Config, str], Layout]] = {"detr": _detr, "maskformer": _maskformer}
HEADS = ("class_labels_classifier.bias", "class_predictor.bias")


def describe(config: Config, preprocessor: Config, tensors: Tensors, source: str) -> Description:
    """What the two configurations say; the classes are counted in the last layer's bias, "no object" being one."""
    layout = NETWORKS[config["model_type"]](config, source)
    classes = next((len(tensors[name]) - 1 for name in HEADS if name in tensors), 0)
    if classes < 1:
        raise BadCheckpoint(f"{source}: expected {' or '.join(HEADS)}, found neither")
    size = preprocessor["size"]
    side = size if isinstance(size, int) else size["shortest_edge"]
    contract = InputContract(side, side, config.get("num_channels", 3), "letterbox")
    arguments = {"num_classes": classes, "in_channels": contract.channels, "image_size": side}
    named = config.get("id2label") or {}
    names = [str(named[str(k)]) for k in range(classes)] if len(named) == classes else None
    return Description(layout, contract, preprocessor["image_mean"], preprocessor["image_std"], names, arguments)
