"""transformers writes SAM and SAM 2 as they are published; ours reads them, in one file or in several."""

import json

import pytest
import torch

import oculi
from agreement import close
from hub.checkpoints import IMAGENET, edit
from oculi.hub.segment_anything import sam, sam2
from oculi.segment.sam import SAM
from oculi.segment.sam2 import SAM2
from oculi.system import BadCheckpoint
from oculi.types import Prompts
from sam2_settings import vision

SIDE = 64


def small_sam():
    from transformers import SamConfig, SamModel

    vision = {
        "hidden_size": 16, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "num_pos_feats": 16,
    }  # fmt: skip
    prompts = {"hidden_size": 32, "image_size": SIDE, "patch_size": 8}
    decoder = {"hidden_size": 32, "mlp_dim": 256, "num_attention_heads": 1, "iou_head_hidden_dim": 32}
    return SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))


def small_sam2():
    from transformers import Sam2VideoConfig, Sam2VideoModel

    config = Sam2VideoConfig(
        vision_config=vision(SIDE, 64), image_size=SIDE, num_maskmem=3, memory_attention_hidden_size=64,
        prompt_encoder_config={"hidden_size": 64, "image_size": SIDE},
        mask_decoder_config={
            "hidden_size": 64, "mlp_dim": 512, "num_attention_heads": 2, "iou_head_hidden_dim": 64,
        },
        memory_attention_num_layers=1, memory_attention_feed_forward_hidden_size=512,
        memory_attention_rope_feat_sizes=[4, 4], memory_encoder_hidden_size=64, mask_downsampler_embed_dim=64,
        memory_fuser_embed_dim=64, memory_fuser_intermediate_dim=256,
    )  # fmt: skip
    return Sam2VideoModel(config)


def written(model, folder, size, **how):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
        shared = model.shared_image_embedding.positional_embedding  # equal in what is published
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(shared)
    model.eval().save_pretrained(folder, **how)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": size, **IMAGENET}))
    return model


def asked():
    points, labels = torch.rand(1, 1, 2, 2) * SIDE, torch.tensor([[[1, 0]]])
    return torch.rand(1, 3, SIDE, SIDE), Prompts(points, labels), {"input_points": points - 0.5, "input_labels": labels}


def assert_equal_masks(ours, theirs):
    image, prompts, given = asked()
    with torch.no_grad():
        decoded = ours.decode(ours.features(image), prompts)
        expected = theirs(ours.normalize(image), multimask_output=True, **given)
    close(decoded.masks[:, :, 1:], expected.pred_masks, 1e-4)
    close(decoded.quality[:, :, 1:], expected.iou_scores, 1e-4)


@pytest.mark.parametrize("how", [{}, {"max_shard_size": "100KB"}], ids=["whole", "in parts"])
def test_sam_reads_and_answers_the_same(tmp_path, how):
    theirs = written(small_sam(), tmp_path, {"longest_edge": SIDE}, **how)
    assert (tmp_path / "model.safetensors").exists() != bool(how)
    ours = oculi.load(tmp_path)
    assert isinstance(ours, SAM)
    assert_equal_masks(ours, theirs)
    assert (ours.contract.height, ours.contract.resize) == (SIDE, "letterbox")
    assert ours.contract.fill == pytest.approx(0.449)


def test_sam2_reads_and_answers_the_same(tmp_path):
    theirs = written(small_sam2(), tmp_path, {"height": SIDE, "width": SIDE})
    ours = oculi.load(tmp_path)
    assert isinstance(ours, SAM2)
    assert ours.contract.resize == "stretch"
    image, prompts, given = asked()
    with torch.no_grad():
        decoded = ours.decode(ours.features(image), prompts)
        fine, medium, coarse = ours.features(image)
        sparse, dense = theirs.prompt_encoder(given["input_points"], given["input_labels"], None, None)
        places = theirs.get_image_wide_positional_embeddings()
        masks, quality, *_ = theirs.mask_decoder(
            coarse, places, sparse, dense, multimask_output=True, high_resolution_features=[fine, medium]
        )
        seen = theirs.vision_encoder(ours.normalize(image)).fpn_hidden_states
    close(decoded.masks[:, :, 1:], masks, 1e-4)
    close(decoded.quality[:, :, 1:], quality, 1e-4)
    for mine, other in zip(ours.encoder(ours.normalize(image)), seen, strict=True):
        close(mine, other, 1e-4)
    edit(tmp_path, model_type="sam2")
    with pytest.raises(BadCheckpoint, match="model_type: expected one of sam, sam2_video"):
        oculi.load(tmp_path)


def test_silent_configurations_mean_the_published_networks():
    assert sam({}).arguments == {key: SAM_B[key] for key in sam({}).arguments}
    assert sam2({}).arguments == {key: HIERA_T[key] for key in sam2({}).arguments}


SAM_B = {
    "image_size": 1024, "patch": 16, "width": 768, "depth": 12, "heads": 12, "window": 14, "whole": [2, 5, 8, 11],
    "channels": 256,
}  # fmt: skip
HIERA_T = {
    "image_size": 1024, "stride": 4, "width": 96, "depths": [1, 2, 7, 2], "windows": [8, 4, 14, 7], "whole": [5, 7, 9],
    "background": 7, "channels": 256, "memory_channels": 64, "memory_layers": 4, "memories": 7,
}  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder, part: part.unlink(), r"model-00001-of-\d+.safetensors is missing"),
        (lambda folder, part: part.write_bytes(part.read_bytes()[:-9]), "broken weights"),
        (lambda folder, part: index(folder, {}), "not an index of weights"),
        (lambda folder, part: index(folder, {"weight_map": {}}), "expected names of safetensors files, got none"),
        (lambda folder, part: index(folder, {"weight_map": {"a": "../x.safetensors"}}), r"got \.\./x\.safetensors"),
        (lambda folder, part: index(folder, {"weight_map": {"a": part.name}}), "and its files differ, first in"),
    ],
)
def test_broken_parts(tmp_path, damage, message):
    written(small_sam(), tmp_path, {"longest_edge": SIDE}, max_shard_size="100KB")
    damage(tmp_path, min(tmp_path.glob("model-*.safetensors")))
    with pytest.raises(BadCheckpoint, match=message):
        oculi.load(tmp_path)


def index(folder, content):
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
