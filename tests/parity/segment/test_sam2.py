"""SAM 2 against transformers: equal masks, scores and pointers at equal weights, in a picture and through a video."""

import pytest
import torch

from agreement import close
from oculi.hub.renames import fill
from oculi.hub.segment_anything import sam2
from oculi.types import Prompts
from sam2_settings import vision

SIDE, CHANNELS = 64, 128


def configuration():
    """Small; the width of memories is 64 in transformers whatever one says."""
    from transformers import Sam2VideoConfig

    return Sam2VideoConfig(
        vision_config=vision(SIDE, CHANNELS), image_size=SIDE, num_maskmem=3, memory_attention_hidden_size=CHANNELS,
        prompt_encoder_config={"hidden_size": CHANNELS, "image_size": SIDE},
        mask_decoder_config={
            "hidden_size": CHANNELS, "mlp_dim": 8 * CHANNELS, "num_attention_heads": 4, "iou_head_hidden_dim": CHANNELS,
        },
        memory_attention_num_layers=2, memory_attention_feed_forward_hidden_size=8 * CHANNELS,
        memory_attention_rope_feat_sizes=[4, 4], memory_encoder_hidden_size=CHANNELS,
        mask_downsampler_embed_dim=CHANNELS, memory_fuser_embed_dim=CHANNELS,
        memory_fuser_intermediate_dim=4 * CHANNELS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def both():
    from transformers import Sam2VideoModel

    torch.manual_seed(0)
    theirs = Sam2VideoModel(configuration()).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
        shared = theirs.shared_image_embedding.positional_embedding  # equal in what is published
        theirs.prompt_encoder.shared_embedding.positional_embedding.copy_(shared)
    layout = sam2(theirs.config.to_dict())
    ours = layout.system(**layout.arguments).eval()
    fill(ours, theirs.state_dict(), layout.rules, "transformers")
    return theirs, ours


def test_encoder(both):
    theirs, ours = both
    image = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = theirs.vision_encoder(image).fpn_hidden_states
        found = ours.encoder(image)
    for mine, other in zip(found, expected, strict=True):
        close(mine, other)


@pytest.mark.parametrize("kind", ["points", "boxes", "masks"])
def test_one_picture(both, kind):
    theirs, ours = both
    torch.manual_seed(1)
    image, points, labels = torch.randn(2, 3, SIDE, SIDE), torch.rand(2, 1, 2, 2) * SIDE, torch.tensor([[[1, 0]]] * 2)
    boxes, masks = torch.tensor([[[5.0, 6, 40, 50]], [[0.0, 0, 9, 60]]]), torch.randn(2, 1, 16, 16)
    prompts, given = {
        "points": (Prompts(points, labels), {"input_points": points - 0.5, "input_labels": labels}),
        "boxes": (Prompts(boxes=boxes), {"input_boxes": boxes - 0.5}),
        "masks": (
            Prompts(points, labels, masks=masks),
            {"input_points": points - 0.5, "input_labels": labels, "input_masks": masks},
        ),
    }[kind]
    with torch.no_grad():
        decoded = ours.decode(ours.features(image), prompts)
        fine, medium, coarse = ours.features(image)
        sparse, dense = theirs.prompt_encoder(
            given.get("input_points"), given.get("input_labels"), given.get("input_boxes"), given.get("input_masks")
        )
        places = theirs.get_image_wide_positional_embeddings().repeat(2, 1, 1, 1)
        masks, quality, tokens, visible = theirs.mask_decoder(
            coarse, places, sparse, dense, multimask_output=True, high_resolution_features=[fine, medium]
        )
    close(decoded.masks[:, :, 1:], masks)
    close(decoded.quality[:, :, 1:], quality)
    close(decoded.tokens[:, :, 1:], tokens)
    close(decoded.visible, visible[..., 0])


def test_image_model_chooses_the_same_mask(both):
    from transformers import Sam2Config, Sam2Model

    video, ours = both
    parts = {
        name: getattr(video.config, name).to_dict()
        for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    }
    theirs = Sam2Model(Sam2Config(**parts)).eval()
    theirs.load_state_dict({k: v for k, v in video.state_dict().items() if k in theirs.state_dict()})
    torch.manual_seed(2)
    image, points = torch.randn(3, 3, SIDE, SIDE), torch.rand(3, 2, 2, 2) * SIDE
    labels = torch.tensor([[[1, 0], [1, 1]]] * 3)
    with torch.no_grad():
        expected = theirs(image, input_points=points - 0.5, input_labels=labels, multimask_output=False)
        masks, quality = ours.best(ours.features(image), Prompts(points, labels))
    close(masks, expected.pred_masks[:, :, 0])
    close(quality, expected.iou_scores[..., 0])


@pytest.mark.parametrize("bias", [3.0, 0.0, -3.0], ids=["seen", "mixed", "hidden"])
def test_video(both, bias, monkeypatch):
    """Six frames, memories of three; the object score is moved so that objects are seen, now and then, or never."""
    from transformers import Sam2VideoInferenceSession

    theirs, ours = both
    torch.manual_seed(3)
    video, point = torch.randn(6, 3, SIDE, SIDE), torch.tensor([[[[20.5, 30.5]]]])
    last = theirs.mask_decoder.pred_obj_score_head.proj_out.bias
    before = last.detach().clone()
    with torch.no_grad():
        for head in (last, ours.decoder.visible[4].bias):
            head.copy_(before + bias)
    monkeypatch.setattr(torch, "bfloat16", torch.float32)  # theirs keeps memories in half precision
    session = Sam2VideoInferenceSession(video=video, video_height=SIDE, video_width=SIDE, dtype=torch.float32)
    index = session.obj_id_to_idx(1)
    session.add_point_inputs(
        index, 0, {"point_coords": point - 0.5, "point_labels": torch.ones(1, 1, 1, dtype=torch.int32)}
    )
    session.obj_with_new_inputs = [1]
    expected = list(theirs.propagate_in_video_iterator(session, start_frame_idx=0))
    with torch.no_grad():
        found = ours.track(video[None], Prompts(point, torch.ones(1, 1, 1, dtype=torch.int64)))
        last.copy_(before)
        ours.decoder.visible[4].bias.copy_(before)
    for number, answer in enumerate(expected):
        close(found.visible[0, :, number], answer.object_score_logits[:, 0], 1e-4)
        close(found.masks[0, :, number], answer.pred_masks[:, 0], 1e-4)
