"""Panoptic FPN: segments by the hand formula from the instances and the semantic branch, losses and their parts."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oculi.segment.panoptic_fpn import PanopticFPN
from oculi.types import Batch
from two_stage import lively, objects

SIZE, CLASSES, STUFF = 64, 3, 2


@pytest.fixture
def system():
    torch.manual_seed(0)
    made = PanopticFPN(CLASSES, STUFF, [1, 1], width=4, channels=6, hidden=16, anchors=[8, 16, 32], proposals=24,
                       image_size=SIZE)  # fmt: skip
    lively(made.instances.detector)
    nn.init.normal_(made.instances.detector.head.classes.weight, std=3.0)
    return made.eval()


def scene():
    batch = objects(2, SIZE, CLASSES, 1)
    batch.semantic = torch.randint(0, STUFF + CLASSES, (2, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    return batch


def test_segments_follow_the_rule(system):
    batch = scene()
    with torch.no_grad():
        maps = system.features(batch.image)
        _, scores, labels, masks = system.instances.detect(maps, [SIZE, SIZE])
        chances = system.logits(maps, [SIZE, SIZE]).softmax(1)
        answers = system.predict(batch)
    kept = 0
    for b, answer in enumerate(answers):
        panoptic, said, sure = torch.zeros(SIZE, SIZE).long(), [], []
        for score, label, mask in zip(scores[b], labels[b], masks[b] > 0.5, strict=True):
            free = mask & (panoptic == 0)
            if score > 0.5 and mask.any() and free.sum() >= 0.5 * mask.sum():
                said.append(int(label) + STUFF)
                sure.append(float(score))
                panoptic[free] = len(said)
        kept += len(said)
        left = panoptic == 0
        for k in range(STUFF):
            region = left & (chances[b].argmax(0) == k)
            if region.sum() >= 0.005 * SIZE**2:
                said.append(k)
                sure.append(float(chances[b, k][region].mean()))
                panoptic[region] = len(said)
        assert torch.equal(answer.panoptic, panoptic)
        assert answer.labels.tolist() == said
        assert answer.scores.tolist() == pytest.approx(sure, abs=1e-5)
        assert answer.semantic.shape == (SIZE, SIZE)
    assert kept > 2


def test_things_are_one_class_to_the_semantic_branch(system):
    batch = scene()
    batch.semantic[:, :8] = 255
    losses = system.loss(batch)
    logits = system.logits(system.features(batch.image), [SIZE, SIZE])
    wanted = batch.semantic.clone()
    wanted[(wanted >= STUFF) & (wanted != 255)] = STUFF
    torch.testing.assert_close(losses["semantic"], 0.5 * F.cross_entropy(logits, wanted, ignore_index=255))
    assert logits.shape[1] == STUFF + 1
    names = {"rpn_objectness", "rpn_boxes", "classes", "boxes", "masks", "semantic"}
    assert losses.keys() == names
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in system.parameters())


def test_bad_input_is_named(system):
    batch = objects(1, SIZE, CLASSES)
    with pytest.raises(ValueError, match=r"batch\.semantic"):
        system.loss(Batch(image=batch.image, boxes=batch.boxes, labels=batch.labels, masks=batch.masks))
    with pytest.raises(ValueError, match="stuff"):
        PanopticFPN(stuff=0)
