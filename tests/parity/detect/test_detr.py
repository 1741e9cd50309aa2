"""DETR with the same weights in transformers': answers, matching, losses, gradients; and what does not depend on order."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss

from agreement import close, copy_in_order
from oculi.detect.detr import DETR, match, set_loss
from oculi.nn.detection import objects_of
from oculi.ops.boxes import from_centres, to_centres
from oculi.types import Batch
from transformers_layers import attention, copy, order_blocks, tail

SIZE, CLASSES, QUERIES = 64, 3, 7


def objects(n, seed=0):
    """Random pictures, each with a different number of boxes, the last with none."""
    g = torch.Generator().manual_seed(seed)
    corner = [torch.rand(count, 2, generator=g) * 40 for count in range(n - 1, -1, -1)]
    boxes = [torch.cat([c, c + 6 + torch.rand(len(c), 2, generator=g) * 16], 1) for c in corner]
    labels = [torch.randint(0, CLASSES, (len(c),), generator=g) for c in corner]
    return Batch(image=torch.rand(n, 3, SIZE, SIZE, generator=g), boxes=boxes, labels=labels)


def ours():
    torch.manual_seed(0)
    system = DETR(CLASSES, [1, 2], True, 8, 16, 2, 24, [2, 3], QUERIES, 0.0, image_size=SIZE).eval()
    for name, value in system.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(value, std=0.2)
        elif name.endswith("running_var"):
            nn.init.uniform_(value, 0.5, 2)
    return system


def settings():
    backbone = ResNetConfig(embedding_size=8, hidden_sizes=[32, 64], depths=[1, 2], out_features=["stage2"])
    return DetrConfig(
        backbone_config=backbone, use_timm_backbone=False, num_labels=CLASSES, num_queries=QUERIES, d_model=16,
        encoder_layers=2, decoder_layers=3, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, dropout=0.0,
    )  # fmt: skip


def theirs(system, config=None):
    model = DetrForObjectDetection(config or settings()).eval()
    trunk = [v for k, v in system.trunk.state_dict().items() if "pixel_" not in k and "num_batches" not in k]
    backbone_keys = [k for k in model.model.backbone.state_dict() if "num_batches" not in k]
    theirs_trunk = order_blocks(backbone_keys)
    mine = dict(zip(theirs_trunk, trunk, strict=True))
    model.model.backbone.load_state_dict(mine, strict=False)
    target = model.model
    copy(system.project, target.input_projection)
    for layer, other in zip(system.encoder, target.encoder.layers, strict=True):
        attention(layer.attention, other.self_attn)
        copy(layer.norm, other.self_attn_layer_norm)
        tail(layer, other)
    for layer, other in zip(system.decoder.layers, target.decoder.layers, strict=True):
        attention(layer.among, other.self_attn)
        copy(layer.among_norm, other.self_attn_layer_norm)
        attention(layer.cross, other.encoder_attn)
        copy(layer.cross_norm, other.encoder_attn_layer_norm)
        tail(layer, other)
    copy(system.decoder.norm, target.decoder.layernorm)
    target.query_position_embeddings.weight.data.copy_(system.decoder.queries)
    copy(system.classes, model.class_labels_classifier)
    copy_in_order(system.boxes, model.bbox_predictor)
    return model


def targets(batch):
    scale = torch.tensor([SIZE] * 4)
    return [{"boxes": to_centres(b) / scale, "class_labels": k} for b, k in zip(batch.boxes, batch.labels, strict=True)]


def test_answers_and_gradients_are_transformers():
    system, batch = ours(), objects(2)
    model = theirs(system)
    logits, boxes = system.answers(system.decoded(batch.image)[-1])
    output = model(system.normalize(batch.image))
    close(logits, output.logits, 1e-5)
    close(boxes, output.pred_boxes, 1e-5)
    (logits.square().sum() + boxes.square().sum()).backward()
    (output.logits.square().sum() + output.pred_boxes.square().sum()).backward()
    close(system.decoder.queries.grad, model.model.query_position_embeddings.weight.grad, 1e-4)
    close(system.project.weight.grad, model.model.input_projection.weight.grad, 1e-4)
    found, scores, labels = system(batch.image)
    expected = (from_centres(output.pred_boxes) * SIZE).clamp(0, SIZE)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    shares = output.logits.softmax(-1)[..., :-1]
    torch.testing.assert_close(scores, shares.amax(-1), rtol=1e-4, atol=1e-5)
    assert torch.equal(labels, shares.argmax(-1))


def test_matching_and_set_loss_are_transformers():
    g = torch.Generator().manual_seed(3)
    batch = objects(5, 1)
    logits = torch.randn(5, QUERIES, CLASSES + 1, generator=g).requires_grad_()
    boxes = torch.rand(5, QUERIES, 4, generator=g).requires_grad_()
    corners, labels, real = objects_of(batch)
    truth = to_centres(corners) / SIZE
    outputs = {"logits": logits, "pred_boxes": boxes}
    matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    found = match(logits, boxes, truth, labels, real)
    for index, (query, other) in enumerate(matcher(outputs, targets(batch))):
        assert torch.equal(found.query[found.picture == index], query)
        assert torch.equal(found.truth[found.picture == index], other)
    losses = set_loss(logits, boxes, truth, labels, real)
    expected = ImageLoss(matcher, CLASSES, 0.1, ["labels", "boxes"])(outputs, targets(batch))
    close(losses["classes"], expected["loss_ce"])
    close(losses["boxes"], 5 * expected["loss_bbox"])
    close(losses["giou"], 2 * expected["loss_giou"])
    mine = torch.autograd.grad(sum(losses.values()), (logits, boxes))
    total = expected["loss_ce"] + 5 * expected["loss_bbox"] + 2 * expected["loss_giou"]
    for one, other in zip(mine, torch.autograd.grad(total, (logits, boxes)), strict=True):
        close(one, other)


def test_the_loss_of_all_layers_is_transformers():
    system, batch = ours(), objects(4, 2)
    mine = system.loss(batch)
    layers = [system.answers(x) for x in system.decoded(batch.image)]
    assert len(layers) == 3
    outputs = {"logits": layers[-1][0], "pred_boxes": layers[-1][1]}
    outputs["auxiliary_outputs"] = [{"logits": a, "pred_boxes": b} for a, b in layers[:-1]]
    criterion = ImageLoss(HungarianMatcher(1, 5, 2), CLASSES, 0.1, ["labels", "boxes"])
    expected = criterion(outputs, targets(batch))
    for name, theirs_name, weight in (("classes", "loss_ce", 1), ("boxes", "loss_bbox", 5), ("giou", "loss_giou", 2)):
        close(mine[name], weight * sum(v for k, v in expected.items() if k.startswith(theirs_name)))


def test_neither_order_matters():
    """Permuted queries give permuted answers; permuted predictions or objects the same loss."""
    system, batch = ours(), objects(4, 5)
    expected, boxes = system.loss(batch), system(batch.image)[0]
    flipped = replace(batch, boxes=[b.flip(0) for b in batch.boxes], labels=[k.flip(0) for k in batch.labels])
    for name, value in system.loss(flipped).items():
        torch.testing.assert_close(value, expected[name])
    order = torch.randperm(QUERIES)
    system.decoder.queries.data = system.decoder.queries.data[order]
    for name, value in system.loss(batch).items():
        torch.testing.assert_close(value, expected[name])
    torch.testing.assert_close(system(batch.image)[0], boxes[:, order], rtol=1e-4, atol=1e-4)


def test_pictures_without_objects_and_crowds():
    system = ours()
    none = Batch(image=torch.rand(2, 3, SIZE, SIZE), boxes=[torch.zeros(0, 4)] * 2, labels=[torch.zeros(0).long()] * 2)
    losses = system.loss(none)
    assert float(losses["boxes"].detach()) == float(losses["giou"].detach()) == 0
    assert float(losses["classes"].detach()) > 0
    batch = objects(3)
    crowd = [torch.arange(len(k)) == 0 for k in batch.labels]
    without = replace(batch, boxes=[b[1:] for b in batch.boxes], labels=[k[1:] for k in batch.labels])
    marked, dropped = system.loss(replace(batch, crowd=crowd)), system.loss(without)
    for name in dropped:
        torch.testing.assert_close(marked[name], dropped[name])


def test_more_objects_than_queries():
    system = ours()
    boxes = from_centres(torch.rand(QUERIES + 3, 4) * 20 + 10)
    losses = system.loss(Batch(image=torch.rand(1, 3, SIZE, SIZE), boxes=[boxes], labels=[torch.zeros(10).long()]))
    assert all(bool(torch.isfinite(v)) for v in losses.values())


def test_answers_are_one_box_per_query_best_first():
    for answer in ours().predict(objects(2)):
        assert len(answer.boxes) == QUERIES
        assert (answer.scores.diff() <= 0).all()
        assert answer.boxes.min() >= 0
        assert answer.boxes.max() <= SIZE


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="layers"):
        DETR(layers=[1])
    with pytest.raises(ValueError, match="queries"):
        DETR(queries=0)
    with pytest.raises(ValueError, match=r"batch\.boxes"):
        ours().loss(Batch(image=torch.rand(1, 3, SIZE, SIZE)))
