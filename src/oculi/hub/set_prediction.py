r"""transformers' checkpoints of DETR and MaskFormer with ResNets, the trunk being transformers' own or timm's, of RT-DETR
with ResNets of bottlenecks, plain or D, and of Mask2Former with Swins of windows of 7.

Where the preprocessor says how long the shorter side gets, pictures are letterboxed into that size, so that one size holds
any of them. What a Mask2Former was trained for stands in no configuration: it answers by instances if its name says so,
and COCO's 133 panoptic classes are known to be 80 kinds of objects and 53 of regions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from oculi.detect.detr import DETR
from oculi.detect.rt_detr import RTDETR
from oculi.hub import torchvision, transformers
from oculi.hub.renames import Description, Layout, Rules, Tensors, projections
from oculi.hub.transformers import expect
from oculi.input_contract import InputContract
from oculi.segment.mask2former import HEAD_WIDTH, Mask2Former
from oculi.segment.maskformer import MaskFormer
from oculi.system import BadCheckpoint

Config = Mapping[str, Any]


def _layer(theirs: str, ours: str) -> dict[str, str]:
    number = theirs.count("#") + 1
    return {
        f"{theirs}.fc1.*": f"{ours}.feed_forward.first.<{number}>",
        f"{theirs}.fc2.*": f"{ours}.feed_forward.second.<{number}>",
        f"{theirs}.final_layer_norm.*": f"{ours}.feed_forward.norm.<{number}>",
    }


def _among(theirs: str, ours: str) -> dict[str, str]:
    """Queries that look at one another, and the end of a decoder's layer."""
    return {
        **projections(f"{theirs}.self_attn", f"{ours}.among"),
        f"{theirs}.self_attn_layer_norm.*": f"{ours}.among_norm.<2>",
        **_layer(theirs, ours),
    }


def _decoder(prefix: str) -> dict[str, str]:
    theirs, ours = f"{prefix}.layers.#", "decoder.layers.<1>"
    return {
        f"{prefix}.layernorm.*": "decoder.norm.<1>",
        **_among(theirs, ours),
        **projections(f"{theirs}.encoder_attn", f"{ours}.cross"),
        f"{theirs}.encoder_attn_layer_norm.*": f"{ours}.cross_norm.<2>",
    }


def _deformable(theirs: str, ours: str) -> dict[str, str]:
    names = {"sampling_offsets": "offsets", "attention_weights": "weights", "value_proj": "value", "output_proj": "out"}
    return {f"{theirs}.{old}.*": f"{ours}.{new}.<2>" for old, new in names.items()}


def _trunk(prefix: str, rules: Rules) -> dict[str, str | None]:
    return {f"{prefix}.{theirs}": f"trunk.{ours}" if ours else None for theirs, ours in rules.items()}


def _perceptron(theirs: str, ours: str) -> dict[str, str]:
    return {theirs.replace("#", str(index)): f"{ours}.{2 * index}.<1>" for index in range(3)}


_DETR_TRUNK = "model.backbone.conv_encoder.model"
DETR_RULES: Rules = {
    **_trunk(_DETR_TRUNK, transformers.RESNET),
    **_trunk(_DETR_TRUNK, torchvision.RESNET),
    "model.input_projection.*": "project.<1>",
    "model.query_position_embeddings.weight": "decoder.queries",
    **projections("model.encoder.layers.#.self_attn", "encoder.<1>.attention"),
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
_T, _E = "model.backbone.model", "model.encoder"
_CONVOLUTION = {"conv": 0, "norm": 1}
RTDETR_RULES: Rules = {
    **{f"{_T}.embedder.embedder.{i}.convolution.*": f"trunk.stem.{2 * i}.0.<1>" for i in range(3)},
    **{f"{_T}.embedder.embedder.{i}.normalization.*": f"trunk.stem.{2 * i}.1.<1>" for i in range(3)},
    f"{_T}.encoder.stages.#.layers.#.shortcut.1.convolution.*": "trunk.stages.<1>.<2>.skip.1.<3>",
    f"{_T}.encoder.stages.#.layers.#.shortcut.1.normalization.*": "trunk.stages.<1>.<2>.skip.2.<3>",
    **_trunk(_T, transformers.RESNET),
    "model.encoder_input_proj.#.#.*": "encoder.project.<1>.<2>.<3>",
    **projections(f"{_E}.encoder.0.layers.0.self_attn", "encoder.within.attention"),
    f"{_E}.encoder.0.layers.0.self_attn_layer_norm.*": "encoder.within.norm.<1>",
    **_layer(f"{_E}.encoder.0.layers.0", "encoder.within"),
    **{
        f"{_E}.{theirs}.#.{part}.*": f"encoder.{ours}.<1>.{index}.<2>"
        for theirs, ours in (("lateral_convs", "lateral"), ("downsample_convs", "shrink"))
        for part, index in _CONVOLUTION.items()
    },
    **{
        f"{_E}.{theirs}.#.{conv}.{part}.*": f"encoder.{ours}.<1>.{own}.{index}.<{2 + conv.count('#')}>"
        for theirs, ours in (("fpn_blocks", "down"), ("pan_blocks", "up"))
        for conv, own in {
            "conv1": "through",
            "conv2": "past",
            "bottlenecks.#.conv1": "blocks.<2>.wide",
            "bottlenecks.#.conv2": "blocks.<2>.narrow",
        }.items()
        for part, index in _CONVOLUTION.items()
    },
    "model.decoder_input_proj.#.#.*": "project.<1>.<2>.<3>",
    "model.enc_output.#.*": "offered.<1>.<2>",
    "model.enc_score_head.*": "classes.<1>",
    **_perceptron("model.enc_bbox_head.layers.#.*", "box"),
    **_perceptron("model.decoder.query_pos_head.layers.#.*", "places"),
    **_among("model.decoder.layers.#", "layers.<1>"),
    **_deformable("model.decoder.layers.#.encoder_attn", "layers.<1>.about"),
    "model.decoder.layers.#.encoder_attn_layer_norm.*": "layers.<1>.about_norm.<2>",
    "model.decoder.class_embed.#.*": "layers.<1>.classes.<2>",
    **{f"model.decoder.bbox_embed.#.layers.{i}.*": f"layers.<1>.box.{2 * i}.<2>" for i in range(3)},
    "model.denoising_class_embed.*": "known.<1>",
    "class_embed.*": None,  # the same once more
    "bbox_embed.*": None,
}
_DECODER = "model.transformer_module.decoder"
MASK2FORMER_RULES: Rules = {
    **{f"{_LEVELS}.encoder.hidden_states_norms.stage{i + 1}.*": f"norms.{i}.<1>" for i in range(4)},
    **_trunk(f"{_LEVELS}.encoder", transformers.SWIN),
    f"{_LEVELS}.encoder.swin.layernorm.*": None,  # after the last stage; each map has a norm of its own
    f"{_LEVELS}.encoder.layernorm.*": None,
    f"{_LEVELS}.decoder.level_embed": "pixels.scales",
    f"{_LEVELS}.decoder.input_projections.#.#.*": "pixels.project.<1>.<2>.<3>",
    **_deformable(f"{_LEVELS}.decoder.encoder.layers.#.self_attn", "pixels.layers.<1>.attention"),
    f"{_LEVELS}.decoder.encoder.layers.#.self_attn_layer_norm.*": "pixels.layers.<1>.norm.<2>",
    **_layer(f"{_LEVELS}.decoder.encoder.layers.#", "pixels.layers.<1>"),
    f"{_LEVELS}.decoder.adapter_1.#.*": "pixels.lateral.<1>.<2>",
    f"{_LEVELS}.decoder.layer_1.#.*": "pixels.merge.<1>.<2>",
    f"{_LEVELS}.decoder.mask_projection.*": "pixels.last.<1>",
    "model.transformer_module.queries_embedder.weight": "decoder.queries",
    "model.transformer_module.queries_features.weight": "decoder.features",
    "model.transformer_module.level_embed.weight": "decoder.scales",
    f"{_DECODER}.layernorm.*": "decoder.norm.<1>",
    **_among(f"{_DECODER}.layers.#", "decoder.layers.<1>"),
    f"{_DECODER}.layers.#.cross_attn.in_proj_*": (
        "decoder.layers.<1>.cross.query.<2>",
        "decoder.layers.<1>.cross.key.<2>",
        "decoder.layers.<1>.cross.value.<2>",
    ),
    f"{_DECODER}.layers.#.cross_attn.out_proj.*": "decoder.layers.<1>.cross.out.<2>",
    f"{_DECODER}.layers.#.cross_attn_layer_norm.*": "decoder.layers.<1>.cross_norm.<2>",
    **_perceptron(f"{_DECODER}.mask_predictor.mask_embedder.#.0.*", "decoder.embedding"),
    "class_predictor.*": "decoder.classes.<1>",
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


def _detr(config: Config, source: str) -> Layout:
    expect(config, source, position_embedding_type="sine", activation_function="relu", dilation=False)
    heads, hidden = config.get("encoder_attention_heads", 8), config.get("encoder_ffn_dim", 2048)
    expect(config, source, decoder_attention_heads=heads, decoder_ffn_dim=hidden)
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
    expect(decoder, source, model_type="detr", activation_function="relu")
    expect(config, source, fpn_feature_size=width, mask_feature_size=width)
    arguments = {
        **_resnet(config, source),
        "channels": width,
        "heads": decoder.get("decoder_attention_heads", 8),
        "hidden": decoder.get("decoder_ffn_dim", 2048),
        "layers": decoder.get("decoder_layers", 6),
        "queries": decoder.get("num_queries", 100),
    }
    return Layout(MaskFormer, arguments, MASKFORMER_RULES)


def _rt_detr(config: Config, source: str) -> Layout:
    width, own = config.get("d_model", 256), config.get("backbone_config") or {}
    heads, hidden = config.get("decoder_attention_heads", 8), config.get("decoder_ffn_dim", 1024)
    expect(config, source, encoder_hidden_dim=width, encoder_attention_heads=heads, encoder_ffn_dim=hidden)
    expect(config, source, encoder_layers=1, encode_proj_layers=[2], num_feature_levels=3, decoder_n_points=4)
    expect(config, source, normalize_before=False, hidden_expansion=1.0, learn_initial_query=False)
    expect(config, source, activation_function="silu", encoder_activation_function="gelu")
    expect(config, source, decoder_activation_function="relu", layer_norm_eps=1e-5, batch_norm_eps=1e-5)
    deep = own.get("model_type") == "rt_detr_resnet"
    if deep:  # as transformers' ResNet but for the stem; two convolutions a block have other shortcuts here
        expect(own, source, layer_type="bottleneck")
        own = {"depths": [3, 4, 6, 3], **own, "model_type": "resnet"}
    arguments = {
        **_resnet({"backbone_config": own}, source),
        "stem": "deep" if deep else "imagenet",
        "channels": width,
        "heads": heads,
        "hidden": hidden,
        "layers": config.get("decoder_layers", 6),
        "queries": config.get("num_queries", 300),
        "denoising": config.get("num_denoising", 100),
    }
    return Layout(RTDETR, arguments, RTDETR_RULES)


def _mask2former(config: Config, source: str) -> Layout:
    own, channels = config.get("backbone_config") or {}, config.get("hidden_dim", 256)
    expect(own, source, model_type="swin")
    swin = transformers.NETWORKS["swin"](own, source).arguments
    heads = [max(1, swin["width"] * 2**stage // HEAD_WIDTH) for stage in range(4)]
    expect(own, source, num_heads=heads, window_size=7, patch_size=4)
    hidden = config.get("dim_feedforward", 2048)
    expect(config, source, feature_size=channels, mask_feature_size=channels, encoder_feedforward_dim=hidden // 2)
    expect(config, source, num_attention_heads=max(1, channels // HEAD_WIDTH), activation_function="relu")
    expect(config, source, pre_norm=False, enforce_input_projection=False, common_stride=4)
    arguments = {
        "trunk": "swin",
        "depths": swin["depths"],
        "width": swin["width"],
        "channels": channels,
        "hidden": hidden,
        "layers": [config.get("encoder_layers", 6), config.get("decoder_layers", 10) - 1],
        "queries": config.get("num_queries", 100),
        "points": config.get("train_num_points", 12544),
    }
    return Layout(Mask2Former, arguments, MASK2FORMER_RULES)


NETWORKS: dict[str, Callable[[Config, str], Layout]] = {
    "detr": _detr,
    "maskformer": _maskformer,
    "rt_detr": _rt_detr,
    "mask2former": _mask2former,
}
HEADS = {  # whose bias counts the classes, and whether "no object" is one
    "class_labels_classifier.bias": 1,
    "class_predictor.bias": 1,
    "model.enc_score_head.bias": 0,
}
THINGS, PANOPTIC = 80, 133  # of COCO's classes


def describe(config: Config, preprocessor: Config, tensors: Tensors, source: str) -> Description:
    """What the two configurations say; the classes are counted in the last layer's bias."""
    layout = NETWORKS[config["model_type"]](config, source)
    expect(config, source, num_channels=3)
    classes = next((len(tensors[name]) - none for name, none in HEADS.items() if name in tensors), 0)
    if classes < 1:
        raise BadCheckpoint(f"{source}: expected one of {', '.join(HEADS)}, found none")
    contract = _contract(preprocessor["size"])
    arguments: dict[str, Any] = {"num_classes": classes, "image_size": contract.height}
    if layout.system is Mask2Former:
        regions = list(range(THINGS, PANOPTIC)) if classes == PANOPTIC else []
        arguments["stuff"] = None if "instance" in source.rpartition("/")[2] else regions
    named = config.get("id2label") or {}
    names = [str(named[str(k)]) for k in range(classes)] if len(named) == classes else None
    mean, std = preprocessor["image_mean"], preprocessor["image_std"]
    if not preprocessor.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    return Description(layout, contract, mean, std, names, arguments)


def _contract(size: Any) -> InputContract:
    """`size` is a number, {shortest_edge} or {height, width}."""
    if isinstance(size, Mapping) and "height" in size:
        return InputContract(size["height"], size["width"])
    side = size["shortest_edge"] if isinstance(size, Mapping) else size
    return InputContract(side, side, resize="letterbox")
