"""MaskFormer with the same weights in transformers': logits, masks, losses; its inferences; its two neighbours."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import DetrConfig, MaskFormerConfig, MaskFormerForInstanceSegmentation, ResNetConfig
from transformers.models.maskformer.image_processing_pil_maskformer import compute_segments, remove_low_and_no_objects
from transformers.models.maskformer.modeling_maskformer import MaskFormerHungarianMatcher, MaskFormerLoss

from agreement import close, copy_in_order
from oculi.segment.maskformer import (
    MaskFormer,
    mask_losses,
    match_masks,
    panoptic_answers,
    panoptic_segments,
    semantic_scores,
    true_segments,
)
from oculi.types import Batch
from transformers_layers import attention, copy, order_blocks, tail

SIZE, CLASSES, QUERIES = 64, 4, 6


def scenes(n=3, seed=0):
    """Blocks of classes, with objects of their own; the last picture has a border of unknown class."""
    g = torch.Generator().manual_seed(seed)
    panoptic = (
        torch.randint(0, 4, (n, 4, 4), generator=g).repeat_interleave(SIZE // 4, 1).repeat_interleave(SIZE // 4, 2)
    )
    kinds = torch.cat([torch.zeros(n, 1).long(), torch.randint(1, CLASSES, (n, 3), generator=g)], 1)
    semantic = kinds.gather(1, panoptic.flatten(1)).view_as(panoptic)
    semantic[-1, :5] = 255
    return Batch(image=torch.rand(n, 3, SIZE, SIZE, generator=g), semantic=semantic, panoptic=panoptic)


def ours(**arguments):
    torch.manual_seed(0)
    given = {"layers": 2, "queries": QUERIES, **arguments}
    return MaskFormer(CLASSES, [1, 1, 1], True, 8, 64, 2, 24, image_size=SIZE, **given).eval()


def theirs(system):
    stages = ["stage1", "stage2", "stage3"]
    backbone = ResNetConfig(embedding_size=8, hidden_sizes=[32, 64, 128], depths=[1, 1, 1], out_features=stages)
    decoder = DetrConfig(
        num_queries=QUERIES, d_model=64, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        decoder_ffn_dim=24, dropout=0.0, use_timm_backbone=False, backbone_config=backbone,
    )  # fmt: skip
    config = MaskFormerConfig(
        backbone_config=backbone, decoder_config=decoder, num_labels=CLASSES, fpn_feature_size=64, mask_feature_size=64
    )
    model = MaskFormerForInstanceSegmentation(config).eval()
    level, transformer = model.model.pixel_level_module, model.model.transformer_module
    trunk = [v for k, v in system.trunk.state_dict().items() if "pixel_" not in k and "num_batches" not in k]
    keys = order_blocks([k for k in level.encoder.state_dict() if "num_batches" not in k])
    level.encoder.load_state_dict(dict(zip(keys, trunk, strict=True)), strict=False)
    copy_in_order(system.pixels.stem, level.decoder.fpn.stem)
    parts = zip(system.pixels.lateral, system.pixels.merge, level.decoder.fpn.layers, strict=True)
    for lateral, merge, other in parts:
        copy_in_order(lateral, other.proj)
        copy_in_order(merge, other.block)
    copy(system.pixels.last, level.decoder.mask_projection)
    copy(system.project, transformer.input_projection)
    transformer.queries_embedder.weight.data.copy_(system.decoder.queries)
    for layer, other in zip(system.decoder.layers, transformer.decoder.layers, strict=True):
        attention(layer.among, other.self_attn)
        copy(layer.among_norm, other.self_attn_layer_norm)
        attention(layer.cross, other.encoder_attn)
        copy(layer.cross_norm, other.encoder_attn_layer_norm)
        tail(layer, other)
    copy(system.decoder.norm, transformer.decoder.layernorm)
    copy(system.classes, model.class_predictor)
    copy_in_order(system.embedding, model.mask_embedder)
    return model


def lists(truth, labels, real):
    return [t[r] for t, r in zip(truth, real, strict=True)], [k[r] for k, r in zip(labels, real, strict=True)]


def test_logits_masks_and_losses_are_transformers():
    system, batch = ours(), scenes()
    model = theirs(system)
    truth, labels, real = true_segments(batch, CLASSES)
    masks_there, labels_there = lists(truth, labels, real)
    output = model(system.normalize(batch.image), mask_labels=masks_there, class_labels=labels_there)
    logits, masks = system.answers(batch.image)
    assert len(logits) == 2 * len(batch)
    close(logits[3:], output.class_queries_logits, 1e-5)
    close(masks[3:], output.masks_queries_logits, 1e-5)
    last = logits[3:], masks[3:], truth, labels, real
    losses = mask_losses(*last, match_masks(*last))
    close(sum(losses.values()), output.loss, 1e-5)
    sum(losses.values()).backward()
    mine = system.decoder.queries.grad.clone()
    output.loss.backward()
    close(mine, model.model.transformer_module.queries_embedder.weight.grad, 1e-4)


def test_the_loss_of_all_layers_is_the_sum_of_theirs():
    system, batch = ours(), scenes()
    truth, labels, real = true_segments(batch, CLASSES)
    logits, masks = system.answers(batch.image)
    matcher = MaskFormerHungarianMatcher(1.0, 20.0, 1.0)
    criterion = MaskFormerLoss(CLASSES, matcher, {}, 0.1)
    extra = [{"masks_queries_logits": masks[:3], "class_queries_logits": logits[:3]}]
    expected = criterion(masks[3:], logits[3:], *lists(truth, labels, real), extra)
    losses = system.loss(batch)
    names = (("classes", "loss_cross_entropy", 1), ("masks", "loss_mask", 20), ("dice", "loss_dice", 1))
    for name, other, weight in names:
        close(losses[name], weight * sum(v for k, v in expected.items() if k.startswith(other)))


def test_semantic_inference_is_one_matrix_product():
    g = torch.Generator().manual_seed(0)
    logits, masks = torch.randn(2, QUERIES, CLASSES + 1, generator=g), torch.randn(2, QUERIES, 8, 8, generator=g)
    scores = semantic_scores(logits, masks)
    assert scores.shape == (2, CLASSES, 8, 8)
    chance = logits.softmax(-1)[1, :, 2]
    torch.testing.assert_close(scores[1, 2, 3, 4], (chance * masks[1, :, 3, 4].sigmoid()).sum())
    from transformers import MaskFormerImageProcessorPil

    outputs = SimpleNamespace(class_queries_logits=logits, masks_queries_logits=masks)
    expected = MaskFormerImageProcessorPil().post_process_semantic_segmentation(outputs, target_sizes=None)
    assert torch.equal(scores.argmax(1), torch.stack(list(expected)))


@pytest.mark.parametrize("stuff", [(), (0, 2)])
def test_panoptic_inference_is_transformers(stuff):
    g = torch.Generator().manual_seed(1)
    pictures, queries = 12, 9
    logits = 4 * torch.randn(pictures, queries, CLASSES + 1, generator=g)
    masks = (
        6
        * torch.nn.functional.interpolate(
            torch.randn(pictures, queries, 3, 3, generator=g), size=(16, 16), mode="bilinear"
        )
        - 2
    )
    mine = panoptic_answers(panoptic_segments(logits, masks, stuff, strict=False))
    seen = 0
    for index in range(pictures):
        score, label = logits[index].softmax(-1).max(-1)
        kept = remove_low_and_no_objects(masks[index].sigmoid(), score, label, 0.5, CLASSES)
        expected, info = (
            compute_segments(*kept, label_ids_to_fuse=set(stuff)) if len(kept[0]) else (torch.zeros(16, 16), [])
        )
        kinds = {one["id"]: one["label_id"] for one in info}
        answer = mine[index]
        seen += len(kinds)
        theirs_kind = torch.tensor([-1, *(kinds.get(k, -1) for k in range(1, 40))])[expected.long()]
        mine_kind = torch.cat([torch.tensor([-1]), answer.labels])[answer.panoptic]
        assert torch.equal(mine_kind, theirs_kind)
        if not stuff:  # transformers numbers on from a fused segment's number and so gives one number to two segments
            assert torch.equal(answer.panoptic, expected.long())
            torch.testing.assert_close(answer.scores, torch.tensor([one["score"] for one in info]), atol=1e-5, rtol=0)
    assert seen > 10


def test_segments_do_not_overlap_and_lie_in_their_masks():
    logits = torch.full((1, 3, 3), -9.0)
    logits[0, 0, 1] = logits[0, 1, 1] = logits[0, 2, 2] = 9  # two of class 1, one that says no object
    masks = torch.full((1, 3, 4, 4), -9.0)
    masks[0, 0, :2], masks[0, 1, 2:, :2], masks[0, 2] = 9, 9, 20
    answer = panoptic_answers(panoptic_segments(logits, masks))[0]
    assert answer.labels.tolist() == [1, 1]
    assert answer.panoptic.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [2, 2, 0, 0], [2, 2, 0, 0]]
    fused = panoptic_answers(panoptic_segments(logits, masks, stuff=[1]))[0]
    assert fused.labels.tolist() == [1]
    assert fused.panoptic.max() == 1
    masks[0, 1] = 12  # the second is larger by far than what it wins
    masks[0, 0, :3] = 15
    assert panoptic_answers(panoptic_segments(logits, masks))[0].labels.tolist() == [1]


def test_truth_is_objects_or_regions():
    batch = scenes()
    masks, labels, real = true_segments(batch, CLASSES)
    assert masks.shape[1] == 4
    for picture in range(3):
        for k in range(4):
            if real[picture, k]:
                assert (batch.semantic[picture][masks[picture, k].bool()] == labels[picture, k]).all()
    assert masks.sum(1).max() == 1
    assert (masks[-1, :, :5] == 0).all(), "unknown pixels are nobody's"
    regions, kinds, there = true_segments(batch, CLASSES, objects=False)
    assert kinds[0].tolist() == [0, 1, 2, 3]
    assert torch.equal(there[0], torch.stack([(batch.semantic[0] == k).any() for k in range(CLASSES)]))
    assert torch.equal(regions[0, 1].bool(), batch.semantic[0] == 1)


def test_fixed_matching_gives_query_k_to_class_k():
    system, batch = ours(formulation="fixed", queries=CLASSES), scenes()
    before = system.loss(batch)
    order = torch.tensor([1, 0, 2, 3])
    system.decoder.queries.data = system.decoder.queries.data[order]
    assert not torch.allclose(system.loss(batch)["masks"], before["masks"]), "queries have classes of their own"
    with pytest.raises(ValueError, match="fixed matching"):
        ours(formulation="fixed")


def test_a_class_per_pixel_is_the_baseline():
    system, batch = ours(formulation="pixels"), scenes()
    loss = system.loss(batch)["cross_entropy"]
    expected = torch.nn.functional.cross_entropy(system(batch.image), batch.semantic, ignore_index=255)
    torch.testing.assert_close(loss, expected)
    assert system.predict(batch)[0].semantic.shape == (SIZE, SIZE)
    with pytest.raises(ValueError, match="no masks"):
        system.panoptic(batch.image)


def test_the_order_of_queries_does_not_matter():
    system, batch = ours(), scenes()
    expected, answer = system.loss(batch), system(batch.image)
    system.decoder.queries.data = system.decoder.queries.data.flip(0)
    for name, value in system.loss(batch).items():
        torch.testing.assert_close(value, expected[name])
    torch.testing.assert_close(system(batch.image), answer, rtol=1e-4, atol=1e-4)
    assert len(system.panoptic(batch.image)) == 3


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"batch\.semantic"):
        ours().loss(replace(scenes(), semantic=None))
    with pytest.raises(ValueError, match="queries"):
        ours(queries=0)


@pytest.mark.unchecked
def test_formulation_is_one_of_three():
    with pytest.raises(ValueError, match="formulation"):
        ours(formulation="boxes")
