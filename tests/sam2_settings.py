"""What the small SAM 2 models of the tests look with, in transformers' words."""

from typing import Any


def vision(side: int, channels: int) -> dict[str, Any]:
    """Settings of a small trunk and pyramid for pictures of `side` pixels."""
    trunk = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 16, "num_attention_heads": 1, "image_size": [side, side],
        "window_positional_embedding_background_size": [5, 5], "blocks_per_stage": [1, 2, 2, 1],
        "embed_dim_per_stage": [16, 32, 64, 128], "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [4, 4, 6, 2], "global_attention_blocks": [4],
    }  # fmt: skip
    return {
        "model_type": "sam2_vision_model", "backbone_config": trunk, "backbone_channel_list": [128, 64, 32, 16],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": channels,
    }  # fmt: skip
