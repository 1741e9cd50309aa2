r"""transformers' SAM and SAM 2 under our names: rules for the tensors and arguments from their configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oculi.hub.renames import Layout, Rules
from oculi.segment.sam import SAM

_ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out", "o_proj": "out"}
_THREE = {"proj_in": "0", "layers.0": "2", "proj_out": "4"}


def _attention(theirs: str, ours: str) -> dict[str, str]:
    """The four layers of one attention; what stands last in `theirs` is not numbered."""
    number = theirs.count("#") + 1
    return {f"{theirs}.{old}.*": f"{ours}.{new}.<{number}>" for old, new in _ATTENTION.items()}


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
    **_attention("mask_decoder.transformer.layers.#.self_attn", "decoder.transformer.blocks.<1>.own"),
    **_attention(
        "mask_decoder.transformer.layers.#.cross_attn_token_to_image", "decoder.transformer.blocks.<1>.to_image"
    ),
    **_attention(
        "mask_decoder.transformer.layers.#.cross_attn_image_to_token", "decoder.transformer.blocks.<1>.to_tokens"
    ),
    "mask_decoder.transformer.layers.#.layer_norm#.*": "decoder.transformer.blocks.<1>.norms.<2-1>.<3>",
    "mask_decoder.transformer.layers.#.mlp.lin1.*": "decoder.transformer.blocks.<1>.mlp.0.<2>",
    "mask_decoder.transformer.layers.#.mlp.lin2.*": "decoder.transformer.blocks.<1>.mlp.2.<2>",
    "mask_decoder.transformer.layers.#.mlp.proj_in.*": "decoder.transformer.blocks.<1>.mlp.0.<2>",
    "mask_decoder.transformer.layers.#.mlp.proj_out.*": "decoder.transformer.blocks.<1>.mlp.2.<2>",
    **_attention("mask_decoder.transformer.final_attn_token_to_image", "decoder.transformer.last"),
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


def sam(config: Mapping[str, Any]) -> Layout:
    """SAM from a SamConfig's `vision_config` (a dictionary); the decoder's sizes follow from the channels."""
    vision = config["vision_config"]
    arguments = {
        "image_size": vision["image_size"],
        "patch": vision["patch_size"],
        "width": vision["hidden_size"],
        "depth": vision["num_hidden_layers"],
        "heads": vision["num_attention_heads"],
        "window": vision["window_size"],
        "whole": list(vision["global_attn_indexes"]),
        "channels": vision["output_channels"],
    }
    return Layout(SAM, arguments, SAM_RULES)
