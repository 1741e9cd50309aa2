"""Boxes: worked overlaps, torchvision's on random boxes, and deltas there and back."""

import pytest
import torch

import oracles
from oculi.ops.boxes import (
    LARGEST_LOG,
    area,
    box_iou,
    clip,
    decode,
    encode,
    from_centres,
    generalized_box_iou,
    mask_iou,
    to_centres,
)


def random_boxes(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=g) * 50
    return torch.cat([corner, corner + 1 + torch.rand(n, 2, generator=g) * 30], 1)


def test_worked_overlaps():
    unit = torch.tensor([[0.0, 0, 1, 1]])
    assert float(box_iou(unit, unit)) == 1
    assert float(box_iou(unit, unit + torch.tensor([0.5, 0, 0.5, 0]))) == pytest.approx(1 / 3)
    assert float(box_iou(unit, unit + 1)) == 0
    assert float(box_iou(unit * 0, unit * 0)) == 0
    assert area(torch.tensor([[1.0, 2, 4, 8]])).tolist() == [18]


def test_overlaps_equal_torchvisions():
    ops = oracles.torchvision().ops
    a, b = random_boxes(50), random_boxes(40, 1)
    torch.testing.assert_close(box_iou(a, b), ops.box_iou(a, b), rtol=0, atol=1e-6)
    torch.testing.assert_close(area(a), ops.box_area(a))
    assert torch.equal(clip(a, 30, 40), ops.clip_boxes_to_image(a, (30, 40)))
    stacked = box_iou(torch.stack([a, a + 3]), torch.stack([b, b]))
    torch.testing.assert_close(stacked[1], box_iou(a + 3, b))


def test_masks_overlap_as_their_boxes_do():
    boxes = random_boxes(12).round()
    y, x = torch.meshgrid(torch.arange(90) + 0.5, torch.arange(90) + 0.5, indexing="ij")
    left, top, right, bottom = boxes.T[:, :, None, None]
    masks = (x > left) & (x < right) & (y > top) & (y < bottom)
    torch.testing.assert_close(mask_iou(masks[:5], masks), box_iou(boxes[:5], boxes))
    none = torch.zeros(1, 90, 90, dtype=torch.bool)
    assert float(mask_iou(none, none)) == 0


def test_deltas_go_there_and_back():
    boxes, anchors = random_boxes(200), random_boxes(200, 1)
    for weights in ((1, 1, 1, 1), (10, 10, 5, 5)):
        again = decode(encode(boxes, anchors, weights), anchors, weights)
        torch.testing.assert_close(again, boxes, rtol=1e-5, atol=1e-5)
    assert encode(anchors, anchors).abs().max() == 0
    torch.testing.assert_close(decode(torch.zeros(200, 4), anchors), anchors)


def test_deltas_equal_torchvisions():
    oracles.torchvision()
    from torchvision.models.detection._utils import BoxCoder

    boxes, anchors, weights = random_boxes(50), random_boxes(50, 1), (10.0, 10.0, 5.0, 5.0)
    coder = BoxCoder(weights)
    torch.testing.assert_close(encode(boxes, anchors, weights), coder.encode_single(boxes, anchors))
    torch.manual_seed(0)
    deltas = torch.randn(50, 3, 4) * torch.tensor([5.0, 5, 20, 20])  # beyond the limit too
    theirs = coder.decode_single(deltas.flatten(1), anchors).unflatten(1, (3, 4))
    torch.testing.assert_close(decode(deltas, anchors[:, None], weights), theirs)


def test_growth_is_limited():
    grown = decode(torch.tensor([[0.0, 0, 99, 99]]), torch.tensor([[0.0, 0, 16, 16]]))
    torch.testing.assert_close(grown[0, 2:] - grown[0, :2], torch.tensor([1000.0, 1000]))
    assert pytest.approx(4.1352, abs=1e-4) == LARGEST_LOG


def test_generalized_iou_is_torchvisions_and_bounded():
    ops = oracles.torchvision().ops
    a, b = random_boxes(50), random_boxes(40, 1)
    torch.testing.assert_close(generalized_box_iou(a, b), ops.generalized_box_iou(a, b), rtol=0, atol=1e-6)
    torch.testing.assert_close(generalized_box_iou(a, a).diagonal(), torch.ones(50))
    assert (generalized_box_iou(a, b) <= box_iou(a, b) + 1e-6).all()
    far = torch.tensor([[0.0, 0, 1, 1], [1e4, 0, 1e4 + 1, 1]])
    assert float(generalized_box_iou(far[:1], far[1:])) == pytest.approx(-1, abs=1e-3)
    flat = torch.zeros(1, 4)
    assert torch.isfinite(generalized_box_iou(flat, flat)).all()


def test_centres_and_corners_go_there_and_back():
    boxes = random_boxes(20)
    torch.testing.assert_close(from_centres(to_centres(boxes)), boxes, rtol=1e-5, atol=1e-5)
