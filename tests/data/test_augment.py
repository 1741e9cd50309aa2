"""Augmentation: nothing moves alone. Boxes stay tight around warped masks, labels and keypoints follow their pixels."""

import math

import pytest
import torch
from torch.nn import functional as F

from oculi.data.augment import Augment, warp
from oculi.geometry.camera import Camera, intrinsics
from oculi.types import Batch

SIDE = 64


def filled(box):
    """A mask of all pixels whose centre lies in the box."""
    x0, y0, x1, y1 = box
    at = torch.arange(SIDE) + 0.5
    return ((at >= y0) & (at < y1))[:, None] & ((at >= x0) & (at < x1))[None]


def scene(n=4):
    boxes = torch.tensor([[10.0, 20.0, 30.0, 44.0], [36.0, 8.0, 56.0, 20.0]])
    masks = torch.stack([filled(box) for box in boxes.tolist()])
    semantic = masks[0].long() + 2 * masks[1].long()
    return Batch(
        image=(semantic[None, None] / 2).float().expand(n, 1, SIDE, SIDE).clone(),
        boxes=[boxes.clone() for _ in range(n)],
        labels=[torch.tensor([0, 1]) for _ in range(n)],
        masks=[masks.clone() for _ in range(n)],
        semantic=semantic.expand(n, SIDE, SIDE).clone(),
        keypoints=[torch.cat([boxes.reshape(2, 2, 2), torch.ones(2, 2, 1)], -1) for _ in range(n)],
    )


def tight(mask):
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


def affine(angle=0.0, scale=1.0, dx=0.0, dy=0.0, mirror=False):
    cos, sin, flip = scale * math.cos(angle), scale * math.sin(angle), -1 if mirror else 1
    linear = torch.tensor([[cos * flip, -sin], [sin * flip, cos]])
    center = torch.tensor([SIDE / 2, SIDE / 2])
    shift = center + torch.tensor([dx, dy]) - linear @ center
    return torch.cat([torch.cat([linear, shift[:, None]], 1), torch.tensor([[0.0, 0, 1]])])[None]


@pytest.mark.parametrize(
    "how",
    [
        {"dx": 4.0, "dy": -3.0},
        {"mirror": True},
        {"scale": 1.25},
        {"angle": math.pi / 2},
        {"angle": 0.3},
        {"angle": -0.2, "scale": 0.8, "dx": 2.5, "mirror": True},
    ],
)
def test_boxes_stay_tight_around_warped_masks(how):
    moved = warp(scene(1), affine(**how))
    assert len(moved.boxes[0]) == 2
    for box, mask in zip(moved.boxes[0], moved.masks[0], strict=True):
        assert (box - tight(mask)).abs().max() <= 1.5  # nearest sampling moves an edge by at most a pixel or so


def test_a_quarter_turn_and_a_mirror_are_exact():
    batch = scene(1)
    mirrored = warp(batch, affine(mirror=True))
    torch.testing.assert_close(mirrored.image, batch.image.flip(-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(mirrored.boxes[0][0], torch.tensor([34.0, 20, 54, 44]))
    turned = warp(batch, affine(angle=math.pi / 2))
    torch.testing.assert_close(turned.image, batch.image.rot90(-1, (-2, -1)), rtol=0, atol=1e-4)
    assert torch.equal(turned.semantic, batch.semantic.rot90(-1, (-2, -1)))


def test_labels_and_masks_and_keypoints_move_with_their_pixels():
    moved = warp(scene(1), affine(angle=0.2, scale=0.9, dx=3))
    for index in range(2):
        agree = (moved.semantic[0] == index + 1) == moved.masks[0][index]
        assert float(agree.float().mean()) > 0.999
    corners = moved.keypoints[0][..., :2].reshape(-1, 2)
    original = scene(1).keypoints[0][..., :2].reshape(-1, 2)
    matrix = affine(angle=0.2, scale=0.9, dx=3)[0]
    torch.testing.assert_close(corners, original @ matrix[:2, :2].T + matrix[:2, 2])
    assert (moved.keypoints[0][..., 2] == 1).all()


def test_what_comes_from_outside_is_ignored_and_what_leaves_is_dropped():
    moved = warp(scene(1), affine(dx=-32))
    assert (moved.semantic[0, :, -30:] == 255).all()
    assert [len(v[0]) for v in (moved.boxes, moved.labels, moved.masks, moved.keypoints)] == [1, 1, 1, 1]
    assert moved.labels[0].tolist() == [1]
    torch.testing.assert_close(moved.boxes[0], torch.tensor([[4.0, 8, 24, 20]]))


def test_nothing_asked_changes_nothing():
    batch = scene()
    same = Augment()(batch)
    assert torch.equal(same.image, batch.image)
    assert same.boxes is batch.boxes
    moved = warp(batch, torch.eye(3).expand(4, 3, 3))
    torch.testing.assert_close(moved.image, batch.image, rtol=0, atol=1e-5)
    assert torch.equal(moved.semantic, batch.semantic)
    torch.testing.assert_close(moved.boxes, batch.boxes)


def test_the_input_is_left_alone_and_the_seed_decides():
    batch, augment = scene(), Augment(0.5, 0.1, 0.3, 0.2, 0.2, 0.2, 0.05, 0.4)
    before = batch.image.clone()
    torch.manual_seed(7)
    first = augment(batch)
    torch.manual_seed(7)
    again, other = augment(batch), augment(batch)
    assert torch.equal(batch.image, before)
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)
    assert float(first.image.min()) >= 0
    assert float(first.image.max()) <= 1


def test_each_colour_option_does_what_it_says():
    torch.manual_seed(0)
    image = torch.full((64, 1, 8, 8), 0.5)
    image[..., :4] = 0.25
    bright = Augment(brightness=0.2)(Batch(image=image)).image / image
    assert (bright.amax((1, 2, 3)) - bright.amin((1, 2, 3))).max() < 1e-6
    assert 0.8 <= float(bright.min()) < float(bright.max()) <= 1.2
    contrast = Augment(contrast=0.5)(Batch(image=image)).image
    torch.testing.assert_close(contrast.mean((1, 2, 3)), image.mean((1, 2, 3)))
    assert float((Augment(noise=0.05)(Batch(image=image)).image - image).std()) == pytest.approx(0.05, rel=0.1)
    erased = Augment(erase=0.5)(Batch(image=image)).image != image
    assert 0 < float(erased.float().mean()) < 0.25
    flipped = Augment(flip=1.0)(Batch(image=image)).image
    torch.testing.assert_close(flipped, image.flip(-1), rtol=0, atol=1e-6)


def test_a_shift_equals_torchs_roll_inside():
    torch.manual_seed(0)
    image = torch.rand(1, 3, SIDE, SIDE)
    moved = warp(Batch(image=image), affine(dx=5, dy=2)).image
    torch.testing.assert_close(
        F.pad(moved, (-5, 0, -2, 0)), F.pad(image.roll((2, 5), (2, 3)), (-5, 0, -2, 0)), rtol=0, atol=1e-4
    )


def test_exact_geometry_is_refused_and_images_are_needed():
    camera = Camera(intrinsics(8, 8, 4, 4)[None], torch.eye(4)[None], 8, 8)
    batch = Batch(image=torch.rand(1, 3, 8, 8), camera=camera)
    with pytest.raises(ValueError, match=r"batch.camera: exact geometry cannot be warped"):
        Augment(rotate=0.1)(batch)
    assert Augment(noise=0.1)(batch).camera is camera
    with pytest.raises(ValueError, match=r"batch.image"):
        Augment(flip=0.5)(Batch(label=torch.zeros(2, dtype=torch.int64)))


def test_vertical_flip_is_exact_and_undoes_itself():
    batch = scene(2)
    flip = Augment(flip_vertical=1.0)
    once = flip(batch)
    torch.testing.assert_close(once.image, batch.image.flip(-2), rtol=0, atol=1e-5)
    torch.testing.assert_close(once.boxes[0][0], torch.tensor([10.0, 20, 30, 44]))  # 64 - 44, 64 - 20
    assert torch.equal(once.masks[0], batch.masks[0].flip(-2))
    twice = flip(once)
    torch.testing.assert_close(twice.image, batch.image, rtol=0, atol=1e-5)
    torch.testing.assert_close(twice.keypoints, batch.keypoints)
    across = Augment(flip=1.0)(batch)
    torch.testing.assert_close(across.boxes[0][0], torch.tensor([34.0, 20, 54, 44]))


def test_a_crop_fills_the_picture_and_carries_everything_along():
    torch.manual_seed(0)
    batch = scene(64)
    moved = Augment(crop=0.5)(batch)
    assert moved.image.shape == batch.image.shape
    sides = []
    for boxes, labels, masks in zip(moved.boxes, moved.labels, moved.masks, strict=True):
        assert len(boxes) == len(labels) == len(masks)
        for box, mask in zip(boxes, masks, strict=True):
            assert (box - tight(mask)).abs().max() <= 1.5
        sides += [
            float(b[3] - b[1]) / 12 for b, kind in zip(boxes, labels, strict=True) if kind == 1 and 0 < b[1] < b[3] < 64
        ]
    assert min(sides) >= 1.0
    assert max(sides) <= 2.0 + 1e-4
    assert (moved.semantic != 255).all()  # a window lies inside


def test_objects_of_which_too_little_is_left_are_dropped():
    left = affine(dx=-20.0)  # the first box keeps half of itself
    assert [len(warp(scene(1), left, keep).boxes[0]) for keep in (0.0, 0.4, 0.6)] == [2, 2, 1]
    assert warp(scene(1), left, 0.6).labels[0].tolist() == [1]


def test_saturation_and_hue_leave_greys_and_lightness_alone():
    torch.manual_seed(0)
    image = torch.rand(32, 3, 6, 6)
    grey = image.mean(1, keepdim=True).expand(32, 3, 6, 6)
    for options in ({"saturation": 0.5}, {"hue": 0.3}):
        changed = Augment(**options)(Batch(image=image)).image
        assert float((changed - image).abs().max()) > 0.05
        torch.testing.assert_close(Augment(**options)(Batch(image=grey)).image, grey, rtol=0, atol=2e-4)
        single = Augment(**options)(Batch(image=image[:, :1])).image
        assert torch.equal(single, image[:, :1])
    turned = Augment(hue=0.5)(Batch(image=image)).image
    torch.testing.assert_close(turned.amax(1), image.amax(1))
    torch.testing.assert_close(turned.amin(1), image.amin(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["flip", "flip_vertical", "crop", "keep"])
def test_shares_lie_between_nothing_and_all(name):
    with pytest.raises(ValueError, match=name):
        Augment(**{name: 1.5})
