"""Mask2Former with the same weights in transformers': every layer's logits and masks, losses at the same points."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    SwinConfig,
)
from transformers.models.mask2former.modeling_mask2former import Mask2FormerHungarianMatcher, Mask2FormerLoss

from agreement import close, copy_in_order
from oculi.ops.boxes import mask_boxes
from oculi.predictions import Detections, Panoptic
from oculi.segment.mask2former import Mask2Former, best_instances, match_at_points, point_losses
from oculi.segment.maskformer import match_masks, true_segments
from oculi.types import Batch
from transformers_layers import attention, copy

SIZE, CLASSES, QUERIES, POINTS = 224, 4, 6, 64


def scenes(n=2, size=SIZE, seed=0):
    g = torch.Generator().manual_seed(seed)
    panoptic = torch.randint(0, 4, (n, 4, 4), generator=g)
    panoptic = panoptic.repeat_interleave(size // 4, 1).repeat_interleave(size // 4, 2)
    kinds = torch.cat([torch.zeros(n, 1).long(), torch.randint(1, CLASSES, (n, 3), generator=g)], 1)
    semantic = kinds.gather(1, panoptic.flatten(1)).view_as(panoptic)
    return Batch(image=torch.rand(n, 3, size, size, generator=g), semantic=semantic, panoptic=panoptic)


def small(**arguments):
    torch.manual_seed(0)
    given = {"depths": [1, 1, 1, 1], "width": 8, "hidden": 16, "layers": [1, 4], "queries": QUERIES, "points": POINTS}
    return Mask2Former(CLASSES, "resnet", channels=32, image_size=64, **{**given, **arguments}).eval()


def ours():
    torch.manual_seed(0)
    return Mask2Former(
        CLASSES, "swin", [1, 2, 1, 1], 8, 64, 48, [2, 4], QUERIES, POINTS, stuff=[], image_size=SIZE
    ).eval()


def settings():
    stages = ["stage1", "stage2", "stage3", "stage4"]
    swin = SwinConfig(
        image_size=SIZE, embed_dim=8, depths=[1, 2, 1, 1], num_heads=[1, 1, 1, 2], window_size=7, out_features=stages,
        drop_path_rate=0.0,
    )  # fmt: skip
    return Mask2FormerConfig(
        backbone_config=swin, num_labels=CLASSES, feature_size=64, mask_feature_size=64, hidden_dim=64, encoder_layers=2,
        decoder_layers=5, num_attention_heads=2, encoder_feedforward_dim=24, dim_feedforward=48, num_queries=QUERIES,
        train_num_points=POINTS,
    )  # fmt: skip


def trunk(system, other):
    copy(system.trunk.patches, other.swin.embeddings.patch_embeddings.projection)
    copy(system.trunk.patches_norm, other.swin.embeddings.norm)
    for index, (stage, layer) in enumerate(zip(system.trunk.stages, other.swin.encoder.layers, strict=True)):
        if index < 3:
            copy(system.trunk.merges[index + 1].norm, layer.downsample.norm)
            copy(system.trunk.merges[index + 1].reduce, layer.downsample.reduction)
        copy(system.norms[index], other.hidden_states_norms[f"stage{index + 1}"])
        for block, there in zip(stage, layer.blocks, strict=True):
            joined, target = block.attention.query_key_value, there.attention
            parts = zip(joined.weight.chunk(3), joined.bias.chunk(3), strict=True)
            for (weight, bias), one in zip(parts, (target.q_proj, target.k_proj, target.v_proj), strict=True):
                one.weight.data.copy_(weight)
                one.bias.data.copy_(bias)
            copy(block.attention.out, target.o_proj)
            target.relative_position_bias.relative_position_bias_table.data.copy_(block.attention.table)
            copy(block.norms[0], there.layernorm_before)
            copy(block.norms[1], there.layernorm_after)
            copy_in_order(block.mlp, there.mlp)


def deformable(mine, other):
    copy(mine.offsets, other.sampling_offsets)
    copy(mine.weights, other.attention_weights)
    copy(mine.value, other.value_proj)
    copy(mine.out, other.output_proj)


def theirs(system, config=None):
    model = Mask2FormerForUniversalSegmentation(config or settings()).eval()
    level, transformer = model.model.pixel_level_module, model.model.transformer_module
    trunk(system, level.encoder)
    pixels, other = system.pixels, level.decoder
    other.level_embed.data.copy_(pixels.scales)
    copy_in_order(pixels.project, other.input_projections)
    for layer, there in zip(pixels.layers, other.encoder.layers, strict=True):
        deformable(layer.attention, there.self_attn)
        copy(layer.norm, there.self_attn_layer_norm)
        rest = ((layer.feed_forward.first, there.fc1), (layer.feed_forward.second, there.fc2))
        for mine, one in (*rest, (layer.feed_forward.norm, there.final_layer_norm)):
            copy(mine, one)
    copy_in_order(pixels.lateral, other.adapter_1)
    copy_in_order(pixels.merge, other.layer_1)
    copy(pixels.last, other.mask_projection)
    decoder = system.decoder
    transformer.queries_embedder.weight.data.copy_(decoder.queries)
    transformer.queries_features.weight.data.copy_(decoder.features)
    transformer.level_embed.weight.data.copy_(decoder.scales)
    for layer, there in zip(decoder.layers, transformer.decoder.layers, strict=True):
        three = (layer.cross.query, layer.cross.key, layer.cross.value)
        there.cross_attn.in_proj_weight.data.copy_(torch.cat([one.weight for one in three]))
        there.cross_attn.in_proj_bias.data.copy_(torch.cat([one.bias for one in three]))
        copy(layer.cross.out, there.cross_attn.out_proj)
        copy(layer.cross_norm, there.cross_attn_layer_norm)
        there.self_attn.o_proj = there.self_attn.out_proj
        attention(layer.among, there.self_attn)
        copy(layer.among_norm, there.self_attn_layer_norm)
        copy(layer.feed_forward.first, there.fc1)
        copy(layer.feed_forward.second, there.fc2)
        copy(layer.feed_forward.norm, there.final_layer_norm)
    copy(decoder.norm, transformer.decoder.layernorm)
    copy_in_order(decoder.embedding, transformer.decoder.mask_predictor.mask_embedder)
    copy(decoder.classes, model.class_predictor)
    return model


def lists(truth, labels, real):
    return [t[r] for t, r in zip(truth, real, strict=True)], [k[r] for k, r in zip(labels, real, strict=True)]


def test_every_layers_logits_and_masks_are_transformers():
    system, image = ours(), scenes(1).image[..., :-2]  # no whole number of patches wide
    for layer in system.pixels.layers:  # away from the beginning, where all heads weigh all points alike
        torch.nn.init.normal_(layer.attention.offsets.weight, std=0.1)
        torch.nn.init.normal_(layer.attention.weights.weight, std=0.3)
    model = theirs(system)
    with torch.no_grad():
        output = model(system.normalize(image), output_auxiliary_logits=True)
        logits, masks = system.answers(image)
        for index, one in enumerate(output.auxiliary_logits):
            close(masks[index], one["masks_queries_logits"][0], 1e-4)
            close(logits[index], one["class_queries_logits"][0], 1e-4)
        close(masks[-1:], output.masks_queries_logits, 1e-4)
        close(logits[-1:], output.class_queries_logits, 1e-4)
        last = system.answers(image, last=True)
    assert len(logits) == 5
    close(last[1], masks[-1:])
    close(last[0], logits[-1:])


def test_losses_at_the_same_points_are_transformers():
    g = torch.Generator().manual_seed(1)
    batch = scenes(3, 32)
    logits = torch.randn(3, QUERIES, CLASSES + 1, generator=g).requires_grad_()
    masks = torch.randn(3, QUERIES, 8, 8, generator=g).requires_grad_()
    truth, labels, real = true_segments(batch, CLASSES)
    criterion = Mask2FormerLoss(settings(), {})
    torch.manual_seed(5)
    expected = criterion(masks, logits, *lists(truth, labels, real))
    torch.manual_seed(5)
    mine = point_losses(logits, masks, truth, labels, real, POINTS)
    close(mine["classes"], 2 * expected["loss_cross_entropy"])
    close(mine["masks"], 5 * expected["loss_mask"])
    close(mine["dice"], 5 * expected["loss_dice"])
    total = 2 * expected["loss_cross_entropy"] + 5 * expected["loss_mask"] + 5 * expected["loss_dice"]
    gradients = torch.autograd.grad(total, (logits, masks))
    for one, other in zip(torch.autograd.grad(sum(mine.values()), (logits, masks)), gradients, strict=True):
        close(one, other)


def test_matching_at_the_same_points_is_transformers():
    g = torch.Generator().manual_seed(2)
    batch = scenes(3, 32)
    logits, masks = torch.randn(3, QUERIES, CLASSES + 1, generator=g), torch.randn(3, QUERIES, 8, 8, generator=g)
    truth, labels, real = true_segments(batch, CLASSES)
    torch.manual_seed(7)
    expected = Mask2FormerHungarianMatcher(2.0, 5.0, 5.0, POINTS)(masks, logits, *lists(truth, labels, real))
    torch.manual_seed(7)
    found = match_at_points(logits, masks, truth, labels, real, torch.rand(3, POINTS, 2))
    for index, (query, _) in enumerate(expected):
        assert torch.equal(found.query[found.picture == index], query)


def test_points_assign_as_whole_masks_do():
    """512 points against every pixel, on blobs and noisy copies of them."""
    g = torch.Generator().manual_seed(3)
    pictures, size = 60, 32
    blobs = F.interpolate(torch.randn(pictures, 5, 4, 4, generator=g), size=(size, size), mode="bilinear")
    truth = (blobs > 0.3).float()
    masks = 4 * (blobs + 0.5 * torch.randn(blobs.shape, generator=g))[:, [3, 1, 4, 0, 2]]
    logits = torch.zeros(pictures, 5, CLASSES + 1)
    labels, real = torch.zeros(pictures, 5).long(), truth.flatten(2).any(-1)
    points = torch.rand(pictures, 512, 2, generator=g)
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    everywhere = torch.stack([x, y], -1).flatten(0, 1).expand(pictures, -1, -1) / size
    whole = match_at_points(logits, masks, truth, labels, real, everywhere)
    sampled = match_at_points(logits, masks, truth, labels, real, points)
    assert float((whole.query == sampled.query).float().mean()) >= 0.95
    assert float((whole.query == match_masks(logits, masks, truth, labels, real).query).float().mean()) > 0.9


def test_layer_l_looks_at_scale_l_mod_3(monkeypatch):
    system, seen = small(layers=[1, 7]), []
    for layer in system.decoder.layers:
        layer.register_forward_pre_hook(lambda _, given: seen.append((given[2].shape[1], given[4])))
    system(scenes(1, 64).image)
    assert [places for places, _ in seen] == [4, 16, 64, 4, 16, 64, 4]
    assert all(mask.shape == (1, 1, QUERIES, places) for places, mask in seen)
    assert all(bool(mask.any(-1).all()) for _, mask in seen), "nobody is blind"
    seen.clear()
    system.masked = False
    system(scenes(1, 64).image)
    assert all(mask is None for _, mask in seen)


def test_a_mask_at_another_scale_is_the_resized_mask():
    system = small()
    with torch.no_grad():
        levels, embedding = system.pixels(system.features(scenes(2, 64).image))
        x = torch.randn(2, QUERIES, 32)
        whole = system.decoder.masks(x, embedding)
        for level in levels:
            size = level.shape[-2:]
            resized = F.interpolate(embedding, size=size, mode="bilinear")
            expected = F.interpolate(whole, size=size, mode="bilinear")
            close(system.decoder.masks(x, resized), expected, 1e-4)


def test_the_order_of_queries_does_not_matter():
    system, batch = small(), scenes(2, 64)
    with torch.no_grad():
        logits, masks = system.answers(batch.image, last=True)
        for value in (system.decoder.features, system.decoder.queries):
            value.data = value.data.flip(0)
        again = system.answers(batch.image, last=True)
    close(again[0].flip(1), logits, 1e-4)
    close(again[1].flip(1), masks, 1e-4)


def test_instances_are_transformers():
    g = torch.Generator().manual_seed(4)
    logits = 3 * torch.randn(3, QUERIES, CLASSES + 1, generator=g)
    masks = 4 * F.interpolate(torch.randn(3, QUERIES, 3, 3, generator=g), size=(96, 96), mode="bilinear")
    masks[0, 1] = -3  # nothing
    outputs = SimpleNamespace(class_queries_logits=logits, masks_queries_logits=masks)
    process = Mask2FormerImageProcessorPil().post_process_instance_segmentation
    expected = process(outputs, threshold=0.0, return_binary_maps=True)
    whole = F.interpolate(masks, size=(384, 384), mode="bilinear", align_corners=False)
    boxes, scores, labels, found = best_instances(logits, whole)
    assert (scores.diff(dim=1) <= 0).all()
    assert torch.equal(boxes, mask_boxes(found))
    for index, other in enumerate(expected):
        there = found[index].flatten(1).any(1)
        order = sorted(range(len(other["segments_info"])), key=lambda k: -other["segments_info"][k]["score"])
        assert len(order) == int(there.sum())
        assert labels[index, there].tolist() == [other["segments_info"][k]["label_id"] for k in order]
        given = torch.tensor([other["segments_info"][k]["score"] for k in order])
        torch.testing.assert_close(scores[index, there], given, atol=1e-4, rtol=0)
        assert torch.equal(found[index, there], other["segmentation"][order].bool())


def test_answers_by_instances():
    system, batch = small(stuff=None), scenes(2, 64)
    system.decoder.classes.bias.data[2] = 9
    for answer in system.predict(batch):
        assert (answer.scores.diff() <= 0).all()
        assert answer.masks.flatten(1).any(1).all()
        assert set(answer.labels[: QUERIES // 2].tolist()) == {2}
    assert system.answer is Detections
    assert small().answer is Panoptic


def test_answers_are_segments():
    system, batch = small(), scenes(2, 64)
    system.decoder.classes.bias.data[2] = 9
    for answer in system.predict(batch):
        assert answer.panoptic.max() == len(answer.labels)
        assert set(answer.labels.tolist()) <= {2}
        assert answer.semantic.shape == (64, 64)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="depths"):
        Mask2Former(depths=[1, 1])
    with pytest.raises(ValueError, match="layers"):
        Mask2Former(layers=[1])
    with pytest.raises(ValueError, match="image_size"):
        Mask2Former(image_size=32)
    with pytest.raises(ValueError, match="stuff"):
        Mask2Former(3, stuff=[3])
