"""SAM against transformers: equal masks, predicted IoUs, parts and gradients at equal weights; its automatic masks."""

import pytest
import torch

from agreement import close
from oculi.hub.renames import fill
from oculi.hub.segment_anything import sam
from oculi.nn.mask_decoder import TwoWayTransformer
from oculi.ops.nms import nms
from oculi.segment.automatic_masks import select, stability
from oculi.types import Prompts


def pair(channels=32, image_size=48, window=4):
    """A small SAM by both with everything random. The grid of 6 x 6 does not divide into windows of 4."""
    from transformers import SamConfig, SamModel

    torch.manual_seed(0)
    vision = {
        "hidden_size": 16, "output_channels": channels, "num_hidden_layers": 3, "num_attention_heads": 2,
        "image_size": image_size, "patch_size": 8, "window_size": window, "global_attn_indexes": [1],
        "num_pos_feats": channels // 2,
    }  # fmt: skip
    config = SamConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": channels, "image_size": image_size, "patch_size": 8},
        mask_decoder_config={
            "hidden_size": channels, "mlp_dim": 8 * channels, "num_attention_heads": channels // 32,
            "iou_head_hidden_dim": channels,
        },
    )  # fmt: skip
    theirs = SamModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    layout = sam(config.to_dict())
    ours = layout.system(**layout.arguments).eval()
    fill(ours, theirs.state_dict(), layout.rules, "transformers")
    return theirs, ours


@pytest.fixture(scope="module")
def both():
    return pair()


def compare(both, prompts, theirs_given, mask_of=slice(None)):
    """Their words for the prompts have pixel centres at whole numbers."""
    theirs, ours = both
    image = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        decoded = ours.decode(ours.features(image), prompts)
        three = theirs(image, multimask_output=True, **theirs_given)
        one = theirs(image, multimask_output=False, **theirs_given)
    close(decoded.masks, torch.cat([one.pred_masks, three.pred_masks], 2))
    close(decoded.quality, torch.cat([one.iou_scores, three.iou_scores], 2))


def test_points(both):
    points, labels = torch.rand(2, 3, 2, 2) * 48, torch.tensor([[[1, 0]] * 3, [[1, -1]] * 3])
    compare(both, Prompts(points, labels), {"input_points": points - 0.5, "input_labels": labels})


def test_boxes_with_and_without_points(both):
    boxes = torch.tensor([[[3.0, 4, 20, 30]], [[0.0, 1, 47, 12]]])
    compare(both, Prompts(boxes=boxes), {"input_boxes": boxes - 0.5})
    points, labels = torch.rand(2, 1, 1, 2) * 48, torch.ones(2, 1, 1, dtype=torch.int64)
    given = {"input_boxes": boxes - 0.5, "input_points": points - 0.5, "input_labels": labels}
    compare(both, Prompts(points, labels, boxes), given)


def test_masks(both):
    points, labels, masks = (
        torch.rand(2, 1, 1, 2) * 48,
        torch.ones(2, 1, 1, dtype=torch.int64),
        torch.randn(2, 1, 24, 24),
    )
    given = {"input_points": points - 0.5, "input_labels": labels, "input_masks": masks}
    compare(both, Prompts(points, labels, masks=masks), given)


def test_image_encoder_and_its_gradients(both):
    theirs, ours = both
    image = torch.randn(2, 3, 48, 48)
    expected = theirs.vision_encoder(image).last_hidden_state
    found = ours.features(image)[0]
    close(found, expected)
    expected.square().mean().backward()
    found.square().mean().backward()
    for mine, other in (
        (ours.encoder.blocks[0].attention.rows, theirs.vision_encoder.layers[0].attn.rel_pos_h),
        (ours.encoder.blocks[1].attention.query_key_value.bias, theirs.vision_encoder.layers[1].attn.qkv.bias),
        (ours.encoder.positions, theirs.vision_encoder.pos_embed),
    ):
        close(mine.grad, other.grad, 1e-4)


def test_a_large_map_in_blocks_of_queries_is_the_same(both, monkeypatch):
    ours = both[1]
    image = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        whole = ours.features(image)[0]
        monkeypatch.setattr("oculi.segment.sam_image_encoder.MOST_BIASES", 1000)
        close(ours.features(image)[0], whole)


def test_prompt_encoder(both):
    theirs, ours = both
    points, labels = torch.rand(1, 2, 3, 2) * 48, torch.tensor([[[1, 0, 1], [0, -1, -1]]])
    with torch.no_grad():
        sparse, dense = theirs.prompt_encoder(points - 0.5, labels, None, None)
        tokens, added = ours.prompts(Prompts(points, labels))
    close(tokens, sparse)
    close(added[0].expand_as(dense[None]), dense[None])


def test_two_way_transformer(both):
    theirs, ours = both
    tokens, image, places = torch.randn(1, 2, 7, 32), torch.randn(1, 32, 6, 6), torch.randn(1, 32, 6, 6)
    part = ours.decoder.transformer
    assert isinstance(part, TwoWayTransformer)
    with torch.no_grad():
        expected = theirs.mask_decoder.transformer(
            tokens, image.repeat(2, 1, 1, 1)[:1], places, None
        )  # one picture for both prompts
        maps = image.flatten(2).transpose(1, 2).expand(2, -1, -1)
        found = part(tokens[0], maps, places[0].flatten(1).T)
    close(found[0], expected[0][0])
    close(found[1], expected[1].reshape(found[1].shape))


def test_stability_and_selection_of_automatic_masks():
    from transformers.models.sam import image_processing_pil_sam as theirs

    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    middle, radius = torch.rand(60, 2) * 32, 3 + torch.rand(60) * 5
    slope = 0.5 + 3 * torch.rand(60)
    away = ((x - middle[:, :1, None]) ** 2 + (y - middle[:, 1:, None]) ** 2).sqrt()
    logits, quality = slope[:, None, None] * (radius[:, None, None] - away), torch.rand(60)
    firm = theirs._compute_stability_score(logits, 0, 1)
    torch.testing.assert_close(stability(logits), firm)
    kept = (quality > 0.3) & (firm > 0.6)
    boxes = theirs._batched_mask_to_box((logits > 0)[kept]).float()
    boxes[:, 2:] += 1  # their last pixel is ours plus one
    chosen = nms(boxes, quality[kept], 0.7)
    found, scores, real = select(logits[None], quality[None], 0.3, 0.6)
    assert int(real.sum()) == len(chosen) > 5
    torch.testing.assert_close(scores[real], quality[kept][chosen])
    assert torch.equal(found[real] > 0, (logits[kept] > 0)[chosen])
