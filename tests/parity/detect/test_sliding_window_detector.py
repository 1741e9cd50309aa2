"""Sliding windows by hand: where they lie, what they show, who answers; the localisation head for one object."""

import pytest
import torch
from torch.nn import functional as F

from oculi.detect.sliding_window_detector import SlidingWindowDetector, slide
from oculi.nn.detection import objects_of
from oculi.nn.localization import LocalizationHead, in_view, localization_loss, out_of_view
from oculi.ops.boxes import box_iou
from oculi.types import Batch


def tiny():
    torch.manual_seed(0)
    return SlidingWindowDetector(3, [8, 12], 0.5, 8, [1], 4, 8, 16, image_size=32).eval()


def test_windows_by_hand():
    found = slide([10, 14], 0.25, 64, 48)
    assert len(found) == 22 * 16 + 15 * 10
    assert (found[:, 2:] <= torch.tensor([48.0, 64])).all()
    assert found[1].tolist() == [2.5, 0, 12.5, 10]
    sides = found[:, 2:] - found[:, :2]
    assert sides.unique().tolist() == [10, 14]


def test_every_object_of_the_sizes_has_a_window():
    """A square object of a size in between, anywhere, overlaps some window by half and more."""
    windows = slide([10, 14, 20, 28], 0.25, 64, 64)
    g = torch.Generator().manual_seed(0)
    side = 9 + 19 * torch.rand(500, 1, generator=g)
    corner = torch.rand(500, 2, generator=g) * (64 - side)
    assert float(box_iou(torch.cat([corner, corner + side], 1), windows).amax(1).min()) > 0.5


def test_a_window_shows_its_pixels():
    system = tiny()
    seen = {}
    system.trunk.stem.register_forward_pre_hook(lambda module, given: seen.update(views=given[0]))
    image = torch.rand(1, 3, 32, 32)
    system.look(image, torch.tensor([[[8.0, 4, 24, 20], [0, 0, 32, 32]]]))
    halved = F.avg_pool2d(image[0, :, 4:20, 8:24], 2)
    torch.testing.assert_close(seen["views"][0], halved)


def test_views_and_back():
    boxes = torch.rand(5, 4) * 30
    views = torch.tensor([[3.0, 5, 19, 13]]).expand(5, -1)
    torch.testing.assert_close(out_of_view(in_view(boxes, views), views), boxes)


def test_windows_in_portions_are_all_of_them(monkeypatch):
    import oculi.detect.sliding_window_detector as module

    system, image = tiny(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        together = system(image)
        monkeypatch.setattr(module, "WINDOWS_AT_ONCE", 7)
        for a, b in zip(system(image), together, strict=True):
            torch.testing.assert_close(a, b)


def test_squares_lie_near_the_objects():
    boxes = torch.tensor([[8.0, 8, 20, 20], [16, 4, 28, 16]])
    truth = objects_of(Batch(image=torch.rand(1, 3, 32, 32), boxes=[boxes], labels=[torch.tensor([0, 1])]))
    torch.manual_seed(0)
    near = tiny().near_objects(truth)
    overlap = box_iou(boxes, near[0]).amax(0)
    own = torch.arange(near.shape[1]) % 3 < 2  # the third is room for none
    assert float((overlap[own] >= 0.5).float().mean()) > 0.4
    assert float(overlap[own].min()) > 0.2


def test_losses_of_the_head_by_hand():
    scores, label = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    boxes, wanted = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]]), torch.tensor([[0.5, 0, 1, 0.95], [9.0, 9, 9, 9]])
    losses = localization_loss(scores, boxes, label, wanted, torch.tensor([True, False]))
    assert float(losses["boxes"]) == pytest.approx((0.5 - 0.05) + 0.05**2 / 0.2, abs=1e-6)
    by_hand = [torch.log1p(torch.tensor(-2.0).exp()), torch.log1p(torch.tensor(-1.0).exp())]
    torch.testing.assert_close(losses["classes"], sum(by_hand) / 2)
    nothing = localization_loss(scores, boxes, label, wanted, torch.tensor([False, False]))
    assert float(nothing["boxes"]) == 0


def test_the_head_finds_one_object():
    """One bright square of one of two colours anywhere on noise: class and box after a few steps."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    low = torch.randint(0, 8, (96, 2), generator=g)
    size = torch.randint(5, 9, (96, 1), generator=g)
    label = torch.arange(96) % 2
    boxes = torch.cat([low, low + size], 1).float()
    at = torch.arange(16) + 0.5
    inside = [(at > boxes[:, k, None]) & (at < boxes[:, 2 + k, None]) for k in (0, 1)]
    mask = (inside[1][:, :, None] & inside[0][:, None])[:, None]
    colour = F.one_hot(label, 2).float()[:, :, None, None]
    image = torch.where(mask, colour, 0.1 * torch.rand(96, 2, 16, 16, generator=g))
    views = torch.tensor([[0.0, 0, 16, 16]]).expand(96, -1)
    head = LocalizationHead(128, 64, 2)
    features = F.avg_pool2d(image, 2).flatten(1)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    for _ in range(150):
        losses = localization_loss(*head(features), label, in_view(boxes, views), torch.ones(96).bool())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    with torch.no_grad():
        scores, shares = head(features)
    assert (scores.argmax(1) == label).float().mean() >= 0.95
    assert float(box_iou(out_of_view(shares, views), boxes).diagonal().mean()) >= 0.8


def test_pictures_without_objects_teach_background():
    system = tiny().train()
    empty = Batch(image=torch.rand(2, 3, 32, 32), boxes=[torch.zeros(0, 4)] * 2, labels=[torch.zeros(0).long()] * 2)
    losses = system.loss(empty)
    assert float(losses["boxes"].detach()) == 0 < float(losses["classes"].detach())


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="sizes"):
        SlidingWindowDetector(sizes=[80], image_size=64)
    with pytest.raises(ValueError, match="step"):
        SlidingWindowDetector(step=0.0)
    with pytest.raises(ValueError, match=r"batch\.boxes"):
        tiny().loss(Batch(image=torch.rand(1, 3, 32, 32)))
