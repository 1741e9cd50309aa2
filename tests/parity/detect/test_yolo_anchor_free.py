"""Anchor-free YOLO by hand: decoding, assignment, distances; what the assignment promises; sizes; answers."""

import math

import pytest
import torch
from torch.nn import functional as F

from oculi.detect.yolo_anchor_free import (
    ManySizes,
    YOLOAnchorFree,
    align,
    box_from_sides,
    candidates,
    distance_loss,
)
from oculi.nn.detection import Truth
from oculi.ops.boxes import box_iou
from oculi.types import Batch


def tiny():
    torch.manual_seed(0)
    return YOLOAnchorFree(3, width=4, depths=[1, 1], levels=2, hidden=8, bins=4, top=4, image_size=32).eval()


def cells(side=32, strides=(4, 8)):
    points = [
        torch.stack(torch.meshgrid(*[(torch.arange(side // s) + 0.5) * s] * 2, indexing="xy"), -1).reshape(-1, 2)
        for s in strides
    ]
    return torch.cat(points), torch.cat([torch.full((len(p),), float(s)) for p, s in zip(points, strides, strict=True)])


def test_cells_lie_at_the_centres():
    system = tiny()
    points, strides = system.cells(system.features(torch.rand(1, 3, 32, 32)))
    expected = cells()
    assert torch.equal(points, expected[0])
    assert torch.equal(strides, expected[1])
    assert system.strides == [4, 8]


def test_decoding_by_hand():
    """Sure of 1, 0, 2 and, half and half, 0 or 3 strides of 8 pixels, from the cell at (12, 20)."""
    sides = torch.full((1, 1, 4, 4), -1e4)
    for side, bins in enumerate(([1], [0], [2], [0, 3])):
        sides[0, 0, side, bins] = 0.0
    box = box_from_sides(sides, torch.tensor([[12.0, 20]]), torch.tensor([8.0]))
    torch.testing.assert_close(box, torch.tensor([[[4.0, 20, 28, 32]]]))


def test_distances_by_hand():
    sides = torch.tensor([[[0.1, 0.2, 0.3, 0.4]] * 4]).log()
    wanted = torch.tensor([[1.0, 1.25, 0.0, 9.0]])  # beyond the last bin but one: as far as can be said
    by_hand = [-math.log(0.2), -0.75 * math.log(0.2) - 0.25 * math.log(0.3), -math.log(0.1)]
    by_hand.append(-0.01 * math.log(0.3) - 0.99 * math.log(0.4))
    assert float(distance_loss(sides, wanted)[0]) == pytest.approx(sum(by_hand) / 4, abs=1e-4)


def test_distances_are_learned_to_a_fraction_of_a_stride():
    sides = torch.zeros(1, 4, 8, requires_grad=True)
    wanted = torch.tensor([[0.3, 2.0, 4.75, 6.5]])
    optimizer = torch.optim.Adam([sides], lr=0.2)
    for _ in range(200):
        optimizer.zero_grad()
        distance_loss(sides, wanted).sum().backward()
        optimizer.step()
    mean = sides.detach().softmax(-1) @ torch.arange(8.0)
    torch.testing.assert_close(mean, wanted, rtol=0, atol=0.05)


def test_candidates_are_the_centres_inside_and_the_nearest():
    points, _ = cells()
    boxes = torch.tensor([[[0.0, 0, 8, 8], [16.5, 16.5, 17.0, 17.0]]])
    found = candidates(points, boxes)[0]
    assert points[found[0]].tolist() == [[2, 2], [6, 2], [2, 6], [6, 6], [4, 4]]
    assert points[found[1]].tolist() == [[18, 18]], "too small to hold a centre"


def by_hand(scores, boxes, points, truth, top):
    """One picture, one object after the other."""
    n = len(points)
    chosen, quality = {}, {}
    for g in range(len(truth.real)):
        if not truth.real[g]:
            continue
        low, high, middle = truth.boxes[g, :2], truth.boxes[g, 2:], (truth.boxes[g, :2] + truth.boxes[g, 2:]) / 2
        far = (points - middle).norm(dim=1)
        overlap = box_iou(truth.boxes[g][None], boxes)[0]
        open_ = [i for i in range(n) if bool((points[i] > low).all() & (points[i] < high).all()) or far[i] == far.min()]
        t = {i: float(scores[i, truth.kinds[g]] * overlap[i] ** 6) for i in open_}
        for i in sorted(open_, key=lambda i: -t[i])[:top]:
            if i not in chosen or overlap[i] > chosen[i][1]:
                chosen[i] = (g, float(overlap[i]))
                quality[i] = t[i]
    matched, sure = torch.full((n,), -1), torch.zeros(n)
    for i, (g, _) in chosen.items():
        own = [k for k, value in chosen.items() if value[0] == g]
        matched[i] = g
        sure[i] = quality[i] * max(chosen[k][1] for k in own) / max(quality[k] for k in own)
    return matched, sure


@pytest.mark.parametrize("seed", range(4))
def test_assignment_by_hand(seed):
    g = torch.Generator().manual_seed(seed)
    points, _ = cells()
    n = len(points)
    away = 2 + 10 * torch.rand(2, n, 4, generator=g)
    boxes = torch.cat([points - away[..., :2], points + away[..., 2:]], -1)
    scores = torch.rand(2, n, 3, generator=g)
    corner = torch.rand(2, 4, 2, generator=g) * 16
    truth = Truth(
        torch.cat([corner, corner + 6 + torch.rand(2, 4, 2, generator=g) * 10], -1),
        torch.randint(0, 3, (2, 4), generator=g),
        torch.tensor([[True, True, True, True], [True, True, False, False]]),
    )
    matched, sure = align(scores, boxes, points, truth, 5)
    for k in range(2):
        expected = by_hand(scores[k], boxes[k], points, Truth(*(part[k] for part in truth)), 5)
        assert torch.equal(matched[k], expected[0])
        torch.testing.assert_close(sure[k], expected[1])
        for own in range(4):
            mine = matched[k] == own
            assert mine.sum() <= 5
            if mine.any():
                overlap = box_iou(truth.boxes[k, own][None], boxes[k][mine])[0]
                assert float(sure[k][mine].max()) == pytest.approx(float(overlap.max()), abs=1e-5)


def test_pooling_three_times_is_pooling_wide():
    layer, x = ManySizes(4).eval(), torch.rand(1, 4, 16, 16)
    seen = {}
    layer.join.register_forward_pre_hook(lambda module, given: seen.update(joined=given[0]))
    layer(x)
    parts = seen["joined"].chunk(4, 1)
    for part, width in zip(parts[1:], (5, 9, 13), strict=True):
        assert torch.equal(part, F.max_pool2d(parts[0], width, 1, padding=width // 2))


def test_pictures_without_objects_teach_background():
    system = tiny().train()
    empty = Batch(image=torch.rand(2, 3, 32, 32), boxes=[torch.zeros(0, 4)] * 2, labels=[torch.zeros(0).long()] * 2)
    losses = system.loss(empty)
    assert float(losses["boxes"].detach()) == float(losses["distances"].detach()) == 0
    assert float(losses["classes"].detach()) > 0
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in system.parameters() if p.grad is not None)


def test_answers_are_what_the_cells_say():
    system = tiny()
    points, strides = cells()
    logits, sides = torch.full((1, len(points), 3), -9.0), torch.full((1, len(points), 4, 4), -1e4)
    sides[..., 1] = 0
    logits[0, 27, 2] = 2.0  # the cell at (14, 14), one stride to each side
    system.dense = lambda image: (logits, sides, points, strides)
    (answer,) = system.predict(Batch(image=torch.zeros(1, 3, 32, 32)))
    assert answer.boxes.tolist() == [[10, 10, 18, 18]]
    assert answer.labels.tolist() == [2]
    torch.testing.assert_close(answer.scores, torch.tensor([2.0]).sigmoid())


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="levels"):
        YOLOAnchorFree(depths=[1], levels=2)
    with pytest.raises(ValueError, match="bins"):
        YOLOAnchorFree(bins=1)
    with pytest.raises(ValueError, match=r"batch\.boxes"):
        tiny().loss(Batch(image=torch.rand(1, 3, 32, 32)))
