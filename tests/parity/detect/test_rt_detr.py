"""RT-DETR with the same weights in transformers': answers, losses with and without denoising, gradients."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import ResNetConfig, RTDetrConfig, RTDetrForObjectDetection
from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher, RTDetrLoss

from agreement import close, copy_in_order
from oculi.detect.rt_detr import RTDETR, match, matched_losses, unsigmoid
from oculi.nn.detection import objects_of
from oculi.ops.boxes import from_centres, to_centres
from oculi.types import Batch
from transformers_layers import attention, copy, order_blocks

SIZE, CLASSES, QUERIES = 64, 3, 7


def objects(n, seed=0):
    """Random pictures, each with a different number of boxes, the last with none."""
    g = torch.Generator().manual_seed(seed)
    corner = [torch.rand(count, 2, generator=g) * 40 for count in range(n - 1, -1, -1)]
    boxes = [torch.cat([c, c + 6 + torch.rand(len(c), 2, generator=g) * 16], 1) for c in corner]
    labels = [torch.randint(0, CLASSES, (len(c),), generator=g) for c in corner]
    return Batch(image=torch.rand(n, 3, SIZE, SIZE, generator=g), boxes=boxes, labels=labels)


def ours(**arguments):
    torch.manual_seed(0)
    given = {"queries": QUERIES, "denoising": 8, "image_size": SIZE, **arguments}
    system = RTDETR(CLASSES, [1, 1, 1], True, 8, 16, 2, 24, 2, **given).eval()
    for name, value in system.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(value, std=0.2)
        elif name.endswith("running_var"):
            nn.init.uniform_(value, 0.5, 2)
    for name, value in system.named_parameters():  # away from the beginning, where nothing is corrected
        if name.endswith(("box.4.weight", "offsets.weight", "about.weights.weight")):
            nn.init.normal_(value, std=0.2)
    return system


def settings():
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[32, 64, 128], depths=[1, 1, 1], out_features=["stage1", "stage2", "stage3"]
    )
    return RTDetrConfig(
        backbone_config=backbone, num_labels=CLASSES, encoder_hidden_dim=16, encoder_in_channels=[32, 64, 128],
        feat_strides=[4, 8, 16], encoder_ffn_dim=24, encoder_attention_heads=2, d_model=16, num_queries=QUERIES,
        decoder_in_channels=[16, 16, 16], decoder_ffn_dim=24, decoder_layers=2, decoder_attention_heads=2,
        num_denoising=8, freeze_backbone_batch_norms=False,
    )  # fmt: skip


def fusion(mine, other):
    copy_in_order(mine.through, other.conv1)
    copy_in_order(mine.past, other.conv2)
    for block, there in zip(mine.blocks, other.bottlenecks, strict=True):
        copy_in_order(block.wide, there.conv1)
        copy_in_order(block.narrow, there.conv2)


def theirs(system):
    whole = RTDetrForObjectDetection(settings()).eval()
    model = whole.model
    trunk = [v for k, v in system.trunk.state_dict().items() if "pixel_" not in k and "num_batches" not in k]
    keys = order_blocks([k for k in model.backbone.state_dict() if "num_batches" not in k])
    model.backbone.load_state_dict(dict(zip(keys, trunk, strict=True)), strict=False)
    encoder, other = system.encoder, model.encoder
    copy_in_order(encoder.project, model.encoder_input_proj)
    within = other.aifi[0].layers[0]
    attention(encoder.within.attention, within.self_attn)
    copy(encoder.within.norm, within.self_attn_layer_norm)
    copy(encoder.within.feed_forward.first, within.mlp.fc1)
    copy(encoder.within.feed_forward.second, within.mlp.fc2)
    copy(encoder.within.feed_forward.norm, within.final_layer_norm)
    copy_in_order(encoder.lateral, other.lateral_convs)
    copy_in_order(encoder.shrink, other.downsample_convs)
    for mine, there in zip([*encoder.down, *encoder.up], [*other.fpn_blocks, *other.pan_blocks], strict=True):
        fusion(mine, there)
    copy_in_order(system.project, model.decoder_input_proj)
    copy_in_order(system.offered, model.enc_output)
    copy(system.classes, model.enc_score_head)
    copy_in_order(system.box, model.enc_bbox_head)
    copy_in_order(system.places, model.decoder.query_pos_head)
    copy(system.known, model.denoising_class_embed)
    heads = zip(model.decoder.class_embed, model.decoder.bbox_embed, strict=True)
    for layer, there, (classes, box) in zip(system.layers, model.decoder.layers, heads, strict=True):
        attention(layer.among, there.self_attn)
        copy(layer.among_norm, there.self_attn_layer_norm)
        names = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
        about = (layer.about.offsets, layer.about.weights, layer.about.value, layer.about.out)
        for one, name in zip(about, names, strict=True):
            copy(one, getattr(there.encoder_attn, name))
        copy(layer.about_norm, there.encoder_attn_layer_norm)
        copy(layer.feed_forward.first, there.mlp.fc1)
        copy(layer.feed_forward.second, there.mlp.fc2)
        copy(layer.feed_forward.norm, there.final_layer_norm)
        copy(layer.classes, classes)
        copy_in_order(layer.box, box)
    return whole


def targets(batch):
    return [{"boxes": to_centres(b) / SIZE, "class_labels": k} for b, k in zip(batch.boxes, batch.labels, strict=True)]


def test_answers_losses_and_gradients_are_transformers():
    system, batch = ours(), objects(3)
    model = theirs(system)
    output = model(system.normalize(batch.image), labels=targets(batch))
    logits, boxes = system.last(batch.image)
    close(logits, output.logits, 1e-4)
    close(boxes, output.pred_boxes, 1e-4)
    losses = system.loss(batch)
    for name, other in (("classes", "vfl"), ("boxes", "bbox"), ("giou", "giou")):
        close(losses[name], sum(v for k, v in output.loss_dict.items() if k.startswith(f"loss_{other}")), 1e-4)
    sum(losses.values()).backward()
    output.loss.backward()
    close(system.project[0][0].weight.grad, model.model.decoder_input_proj[0][0].weight.grad, 1e-3)
    close(system.box[0].weight.grad, model.model.enc_bbox_head.layers[0].weight.grad, 1e-3)
    found, scores, labels = system(batch.image)
    expected, index = output.logits.sigmoid().flatten(1).topk(QUERIES)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(labels, index % CLASSES)
    corners = (from_centres(output.pred_boxes) * SIZE).clamp(0, SIZE)
    torch.testing.assert_close(found[0], corners[0, index[0] // CLASSES], rtol=1e-4, atol=1e-3)


def test_matching_and_losses_are_transformers():
    g = torch.Generator().manual_seed(3)
    batch = objects(5, 1)
    logits = torch.randn(5, QUERIES, CLASSES, generator=g).requires_grad_()
    boxes = torch.rand(5, QUERIES, 4, generator=g).requires_grad_()
    corners, labels, real = objects_of(batch)
    truth = to_centres(corners) / SIZE
    outputs = {"logits": logits, "pred_boxes": boxes}
    found = match(logits, boxes, truth, labels, real)
    for index, (query, other) in enumerate(RTDetrHungarianMatcher(settings())(outputs, targets(batch))):
        assert torch.equal(found.query[found.picture == index], query)
        assert torch.equal(found.truth[found.picture == index], other)
    losses = matched_losses(logits, boxes, truth, labels, found)
    expected = RTDetrLoss(settings())(outputs, targets(batch))
    for name, other in (("classes", "loss_vfl"), ("boxes", "loss_bbox"), ("giou", "loss_giou")):
        close(losses[name] / 10, expected[other])


def test_denoising_groups_see_themselves_alone():
    system = ours()
    may = system.apart(12, 3, 4, torch.device("cpu"))
    assert may.shape == (16, 16)
    assert may[:6, :6].all()
    assert may[6:12, 6:12].all()
    assert not may[:6, 6:12].any()
    assert not may[6:12, :6].any()
    assert not may[12:, :12].any(), "the queries never see the truth"
    assert may[:, 12:].all()


def test_denoising_moves_boxes_and_swaps_classes():
    torch.manual_seed(1)
    system, batch = ours(denoising=600), objects(4)
    corners, labels, real = (part[:, :3] for part in objects_of(batch))
    truth = to_centres(corners) / SIZE
    extra, around, found = system.noisy(truth, labels, real)
    assert extra.shape[1] == around.shape[1] == 2 * 200 * 3
    kinds = (extra[:, :, None] - system.known.weight).abs().sum(-1).argmin(-1)
    same = kinds[found.picture, found.query] == labels[found.picture, found.truth]
    assert float(same.float().mean()) == pytest.approx(1 - 0.25 * 2 / 3, abs=0.05)
    boxes, wanted = around.sigmoid()[found.picture, found.query], truth[found.picture, found.truth]
    gap = (from_centres(boxes) - from_centres(wanted)).abs() / wanted[:, 2:].repeat(1, 2)
    assert float(gap.max()) <= 0.5 + 1e-3
    assert float(gap.mean()) > 0.1
    assert not (kinds[-1] != CLASSES).any(), "a picture without objects has nothing to repair"


def test_learning_with_denoising_costs_the_sum():
    """The queries' own losses are as without it, since they do not see it."""
    system, batch = ours(), objects(3)
    for module in system.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    before = system.loss(batch)
    system.training = True
    torch.manual_seed(0)
    with_it = system.loss(batch)
    assert all(float(with_it[k].detach()) > float(before[k].detach()) for k in before)
    system.denoising = 0
    for name, value in system.loss(batch).items():
        torch.testing.assert_close(value, before[name])


def test_answers_best_first_inside_the_picture():
    for answer in ours().predict(objects(2)):
        assert len(answer.boxes) == QUERIES
        assert (answer.scores.diff() <= 0).all()
        assert answer.boxes.min() >= 0
        assert answer.boxes.max() <= SIZE


def test_pictures_without_objects_and_crowds():
    system = ours().train()
    none = Batch(image=torch.rand(2, 3, SIZE, SIZE), boxes=[torch.zeros(0, 4)] * 2, labels=[torch.zeros(0).long()] * 2)
    losses = system.loss(none)
    assert float(losses["boxes"].detach()) == 0
    assert all(bool(torch.isfinite(v)) for v in losses.values())
    batch, system = objects(3), ours()
    crowd = [torch.arange(len(k)) == 0 for k in batch.labels]
    without = replace(batch, boxes=[b[1:] for b in batch.boxes], labels=[k[1:] for k in batch.labels])
    marked, dropped = system.loss(replace(batch, crowd=crowd)), system.loss(without)
    for name in dropped:
        torch.testing.assert_close(marked[name], dropped[name])


def test_bad_input_is_named():
    x = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(unsigmoid(x).sigmoid(), x)
    with pytest.raises(ValueError, match="depths"):
        RTDETR(depths=[1, 1])
    with pytest.raises(ValueError, match="queries"):
        RTDETR(queries=0)
    with pytest.raises(ValueError, match=r"batch\.boxes"):
        ours().loss(Batch(image=torch.rand(1, 3, SIZE, SIZE)))
