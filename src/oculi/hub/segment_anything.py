r"""transformers' checkpoints of SAM and SAM 2 (as published, with its memory: model_type sam2_video)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from oculi.hub.renames import Description, Layout, Rules, Tensors, projections
from oculi.input_contract import InputContract
from oculi.segment.sam import SAM
from oculi.segment.sam2 import SAM2

Config = Mapping[str, Any]
_THREE = {"proj_in": "0", "layers.0": "2", "proj_out": "4"}


def _three_layers(theirs: str, ours: str) -> dict[str, str]:
    number = theirs.count("#") + 1
    return {f"{theirs}.{old}.*": f"{ours}.{new}.<{number}>" for old, new in _THREE.items()}


_PROMPTS: Rules = {
    "shared_image_embedding.positional_embedding": "prompts.positions.frequencies",
    "prompt_encoder.shared_embedding.positional_embedding": None,  # the same once more
    "prompt_encoder.mask_embed.conv1.*": "prompts.mask.0.<1>",
    "prompt_encoder.mask_embed.layer_norm1.*": "prompts.mask.1.<1>",
    "prompt_encoder.mask_embed.conv2.*": "prompts.mask.3.<1>",
    "prompt_encoder.mask_embed.layer_norm2.*": "prompts.mask.4.<1>",
    "prompt_encoder.mask_embed.conv3.*": "prompts.mask.6.<1>",
    "prompt_encoder.no_mask_embed.weight": "prompts.no_mask",
    "prompt_encoder.not_a_point_embed.weight": "prompts.kinds 1/5",
    "prompt_encoder.point_embed.#.weight": "prompts.kinds <1+2>/5",
    "prompt_encoder.point_embed.weight": "prompts.kinds 2/5",  # SAM 2: all four at once
}
_DECODER: Rules = {
    "mask_decoder.iou_token.weight": "decoder.quality_token",
    "mask_decoder.mask_tokens.weight": "decoder.mask_tokens",
    **projections("mask_decoder.transformer.layers.#.self_attn", "decoder.transformer.blocks.<1>.own"),
    **projections(
        "mask_decoder.transformer.layers.#.cross_attn_token_to_image", "decoder.transformer.blocks.<1>.to_image"
    ),
    **projections(
        "mask_decoder.transformer.layers.#.cross_attn_image_to_token", "decoder.transformer.blocks.<1>.to_tokens"
    ),
    "mask_decoder.transformer.layers.#.layer_norm#.*": "decoder.transformer.blocks.<1>.norms.<2-1>.<3>",
    "mask_decoder.transformer.layers.#.mlp.lin1.*": "decoder.transformer.blocks.<1>.mlp.0.<2>",
    "mask_decoder.transformer.layers.#.mlp.lin2.*": "decoder.transformer.blocks.<1>.mlp.2.<2>",
    "mask_decoder.transformer.layers.#.mlp.proj_in.*": "decoder.transformer.blocks.<1>.mlp.0.<2>",
    "mask_decoder.transformer.layers.#.mlp.proj_out.*": "decoder.transformer.blocks.<1>.mlp.2.<2>",
    **projections("mask_decoder.transformer.final_attn_token_to_image", "decoder.transformer.last"),
    "mask_decoder.transformer.layer_norm_final_attn.*": "decoder.transformer.norm.<1>",
    "mask_decoder.upscale_conv#.*": "decoder.up<1>.<2>",
    "mask_decoder.upscale_layer_norm.*": "decoder.up_norm.<1>",
    **_three_layers("mask_decoder.output_hypernetworks_mlps.#", "decoder.mask_mlps.<1>"),
    **_three_layers("mask_decoder.iou_prediction_head", "decoder.quality"),
}
SAM_RULES: Rules = {
    "vision_encoder.pos_embed": "encoder.positions",
    "vision_encoder.patch_embed.projection.*": "encoder.patches.<1>",
    "vision_encoder.layers.#.layer_norm#.*": "encoder.blocks.<1>.norms.<2-1>.<3>",
    "vision_encoder.layers.#.attn.qkv.*": "encoder.blocks.<1>.attention.query_key_value.<2>",
    "vision_encoder.layers.#.attn.proj.*": "encoder.blocks.<1>.attention.out.<2>",
    "vision_encoder.layers.#.attn.rel_pos_h": "encoder.blocks.<1>.attention.rows",
    "vision_encoder.layers.#.attn.rel_pos_w": "encoder.blocks.<1>.attention.columns",
    "vision_encoder.layers.#.mlp.lin1.*": "encoder.blocks.<1>.mlp.0.<2>",
    "vision_encoder.layers.#.mlp.lin2.*": "encoder.blocks.<1>.mlp.2.<2>",
    "vision_encoder.neck.conv1.*": "encoder.neck.0.<1>",
    "vision_encoder.neck.layer_norm1.*": "encoder.neck.1.<1>",
    "vision_encoder.neck.conv2.*": "encoder.neck.2.<1>",
    "vision_encoder.neck.layer_norm2.*": "encoder.neck.3.<1>",
    **_PROMPTS,
    **_DECODER,
}


def sam(config: Config) -> Layout:
    """SAM from a SamConfig's `vision_config` (a dictionary); the decoder's sizes follow from the channels."""
    vision = config.get("vision_config") or {}
    arguments = {
        "image_size": vision.get("image_size", 1024),
        "patch": vision.get("patch_size", 16),
        "width": vision.get("hidden_size", 768),
        "depth": vision.get("num_hidden_layers", 12),
        "heads": vision.get("num_attention_heads", 12),
        "window": vision.get("window_size", 14),
        "whole": list(vision.get("global_attn_indexes", (2, 5, 8, 11))),
        "channels": vision.get("output_channels", 256),
    }
    return Layout(SAM, arguments, SAM_RULES)


SAM2_RULES: Rules = {
    "vision_encoder.backbone.pos_embed": "encoder.positions",
    "vision_encoder.backbone.pos_embed_window": "encoder.window_positions",
    "vision_encoder.backbone.patch_embed.projection.*": "encoder.patches.<1>",
    "vision_encoder.backbone.blocks.#.layer_norm#.*": "encoder.blocks.<1>.norms.<2-1>.<3>",
    "vision_encoder.backbone.blocks.#.attn.qkv.*": "encoder.blocks.<1>.query_key_value.<2>",
    "vision_encoder.backbone.blocks.#.attn.proj.*": "encoder.blocks.<1>.out.<2>",
    "vision_encoder.backbone.blocks.#.mlp.proj_in.*": "encoder.blocks.<1>.mlp.0.<2>",
    "vision_encoder.backbone.blocks.#.mlp.proj_out.*": "encoder.blocks.<1>.mlp.2.<2>",
    "vision_encoder.backbone.blocks.#.proj.*": "encoder.blocks.<1>.skip.<2>",
    "vision_encoder.neck.convs.#.*": "encoder.neck.<1>.<2>",
    **_PROMPTS,
    **_DECODER,
    "mask_decoder.conv_s0.*": "decoder.fine.<1>",
    "mask_decoder.conv_s1.*": "decoder.medium.<1>",
    "mask_decoder.obj_score_token.weight": "decoder.visible_token",
    **_three_layers("mask_decoder.pred_obj_score_head", "decoder.visible"),
    "no_memory_embedding": "no_memory",
    **projections("memory_attention.layers.#.self_attn", "memory_attention.blocks.<1>.own"),
    **projections("memory_attention.layers.#.cross_attn_image", "memory_attention.blocks.<1>.to_memory"),
    "memory_attention.layers.#.linear1.*": "memory_attention.blocks.<1>.mlp.0.<2>",
    "memory_attention.layers.#.linear2.*": "memory_attention.blocks.<1>.mlp.2.<2>",
    "memory_attention.layers.#.layer_norm#.*": "memory_attention.blocks.<1>.norms.<2-1>.<3>",
    "memory_attention.layer_norm.*": "memory_attention.norm.<1>",
    "memory_encoder.mask_downsampler.layers.0.conv.*": "memory_encoder.mask.0.<1>",
    "memory_encoder.mask_downsampler.layers.0.layer_norm.*": "memory_encoder.mask.1.<1>",
    "memory_encoder.mask_downsampler.layers.1.conv.*": "memory_encoder.mask.3.<1>",
    "memory_encoder.mask_downsampler.layers.1.layer_norm.*": "memory_encoder.mask.4.<1>",
    "memory_encoder.mask_downsampler.layers.2.conv.*": "memory_encoder.mask.6.<1>",
    "memory_encoder.mask_downsampler.layers.2.layer_norm.*": "memory_encoder.mask.7.<1>",
    "memory_encoder.mask_downsampler.layers.3.conv.*": "memory_encoder.mask.9.<1>",
    "memory_encoder.mask_downsampler.layers.3.layer_norm.*": "memory_encoder.mask.10.<1>",
    "memory_encoder.mask_downsampler.final_conv.*": "memory_encoder.mask.12.<1>",
    "memory_encoder.feature_projection.*": "memory_encoder.image.<1>",
    "memory_encoder.memory_fuser.layers.#.depthwise_conv.*": "memory_encoder.fuse.<1>.depthwise.<2>",
    "memory_encoder.memory_fuser.layers.#.layer_norm.*": "memory_encoder.fuse.<1>.norm.<2>",
    "memory_encoder.memory_fuser.layers.#.pointwise_conv1.*": "memory_encoder.fuse.<1>.mlp.0.<2>",
    "memory_encoder.memory_fuser.layers.#.pointwise_conv2.*": "memory_encoder.fuse.<1>.mlp.2.<2>",
    "memory_encoder.memory_fuser.layers.#.scale": "memory_encoder.fuse.<1>.scale",
    "memory_encoder.projection.*": "memory_encoder.out.<1>",
    "memory_temporal_positional_encoding": "age",
    "no_object_pointer": "no_pointer",
    **_three_layers("object_pointer_proj", "pointer"),
    "temporal_positional_encoding_projection_layer.*": "pointer_age.<1>",
    "occlusion_spatial_embedding_parameter": "occluded",
    "no_memory_positional_encoding": None,  # not used by the published code either
    "mask_downsample.*": None,  # of masks that are taken over as answers
}


def sam2(config: Config) -> Layout:
    """SAM 2 from a Sam2VideoConfig (a dictionary)."""
    vision = config.get("vision_config") or {}
    trunk = vision.get("backbone_config") or {}
    arguments = {
        "image_size": config.get("image_size", 1024),
        "stride": trunk.get("patch_stride", (4,))[0],
        "width": trunk.get("hidden_size", 96),
        "depths": list(trunk.get("blocks_per_stage", (1, 2, 7, 2))),
        "windows": list(trunk.get("window_size_per_stage", (8, 4, 14, 7))),
        "whole": list(trunk.get("global_attention_blocks", (5, 7, 9))),
        "background": trunk.get("window_positional_embedding_background_size", (7,))[0],
        "channels": vision.get("fpn_hidden_size", 256),
        "memory_channels": config.get("memory_encoder_output_channels", 64),
        "memory_layers": config.get("memory_attention_num_layers", 4),
        "memories": config.get("num_maskmem", 7),
    }
    return Layout(SAM2, arguments, SAM2_RULES)


NETWORKS: dict[str, Callable[[Config], Layout]] = {"sam": sam, "sam2_video": sam2}


def describe(config: Config, preprocessor: Config, tensors: Tensors, source: str) -> Description:
    """What the two configurations say: SAM's pictures are letterboxed, with the mean's grey, SAM 2's are stretched."""
    layout = NETWORKS[config["model_type"]](config)
    side, mean = layout.arguments["image_size"], preprocessor["image_mean"]
    if "longest_edge" in preprocessor["size"]:
        contract = InputContract(side, side, resize="letterbox", fill=sum(mean) / len(mean))
    else:
        contract = InputContract(side, side)
    return Description(layout, contract, mean, preprocessor["image_std"])
