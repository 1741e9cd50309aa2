r"""World: geometry that closes, masks that agree, words that name what is seen, and bits that repeat."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from oculi.data.sources import open_data
from oculi.data.world import truth
from oculi.data.world.dataset import BASELINE, World, class_of, step
from oculi.data.world.render import rays, render, to_local
from oculi.data.world.scenes import Knobs, class_shares, lay_out
from oculi.data.world.shapes import SHAPES, dot, inside, intersect, normal
from oculi.types import Batch

ALL = ("panoptic", "depth", "normals", "camera", "boxes3d", "questions", "referring", "semantic")


@pytest.fixture(scope="module")
def world() -> World:
    return World(24, size=48, seed=3, fields=ALL)


def test_boxes_are_tight_and_masks_disjoint_and_as_panoptic(world):
    for sample in (world[i] for i in range(len(world))):
        assert int(sample.masks.sum(0).max()) <= 1
        for k, (mask, box) in enumerate(zip(sample.masks, sample.boxes, strict=True)):
            rows, columns = mask.nonzero().T
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == [float(v) for v in tight]
            assert torch.equal(mask, sample.panoptic == k + 1)
            assert bool((sample.semantic[mask] == sample.labels[k] + 1).all())
        assert torch.equal(sample.masks.any(0), sample.panoptic > 0)


def test_captions_name_exactly_the_visible_objects(world):
    for sample in (world[i] for i in range(len(world))):
        named = [w for w in sample.caption.replace(",", "").split() if w in SHAPES]
        assert named == [SHAPES[k] for k in sample.labels.tolist()]
        answers = dict(sample.questions)
        assert answers["how many objects are there?"] == str(len(named))
        for shape in SHAPES:
            assert answers[f"is there a {shape}?"] == ("yes" if shape in named else "no")
        for text, index in sample.referring:
            assert SHAPES[int(sample.labels[index])] in text


def test_same_bits_alone_and_in_a_block(world):
    for index in (0, 5, 23):
        sample = world.make([index])[0]
        for name in ("image", "depth", "normals", "masks", "boxes", "boxes3d"):
            assert torch.equal(getattr(sample, name), getattr(world[index], name)), (name, index)
        assert sample.caption == world[index].caption


def test_seed_and_index_decide(world):
    again = World(4, size=48, seed=3, fields=ALL, start=2)
    assert torch.equal(again[1].image, world[3].image)
    assert not torch.equal(World(4, size=48, seed=4)[1].image, world[1].image)
    before = world[0].image.clone()
    world[0].image.zero_()
    assert torch.equal(world[0].image, before)


def test_images_survive_eight_bits(world):
    image = world[1].image
    assert torch.equal((image * 255).round().to(torch.uint8).float() / 255, image)


def _points(scenes, picture):
    return scenes.eye[:, :, None, None] + picture.depth * rays(scenes, picture.depth.shape[-1])


def _pixels(scenes, points, size):
    return scenes.cameras(size).project(points.flatten(2).permute(1, 2, 0))


def test_depth_reprojected_meets_stereo_disparity():
    scenes, size = lay_out(0, list(range(6)), Knobs()), 48
    picture = render(scenes, size, Knobs())
    right = dataclasses.replace(scenes, eye=scenes.eye + BASELINE * scenes.view[0])
    points = _points(scenes, picture)
    here, depth = _pixels(scenes, points, size)
    there, _ = _pixels(right, points, size)
    expected = truth.disparity(scenes, picture.depth, BASELINE).flatten(1)
    torch.testing.assert_close(depth, picture.depth.flatten(1), atol=1e-4, rtol=1e-5)
    assert float((here[..., 0] - there[..., 0] - expected).abs().max()) < 1e-3
    assert float((here[..., 1] - there[..., 1]).abs().max()) < 1e-3


def test_flow_is_reprojected_depth_and_lands_on_the_same_object():
    scenes, size = lay_out(1, list(range(6)), Knobs()), 64
    picture, later = render(scenes, size, Knobs()), step(scenes, 1)
    still = dataclasses.replace(scenes, eye=later.eye, view=later.view)
    points = _points(scenes, picture)
    there, here = _pixels(still, points, size)[0], _pixels(scenes, points, size)[0]
    rigid, moving = truth.flow(scenes, still, picture), truth.flow(scenes, later, picture)
    assert float((there - here - rigid.flatten(2).transpose(1, 2)).abs().max()) < 1e-3
    background = picture.slot < 0
    assert torch.equal(moving.transpose(0, 1)[:, background], rigid.transpose(0, 1)[:, background])
    second = render(later, size, Knobs())
    x = (moving[:, 0] + torch.arange(size) + 0.5).floor().long()
    y = (moving[:, 1] + torch.arange(size)[:, None] + 0.5).floor().long()
    kept = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    found = second.slot[torch.arange(6)[:, None, None].expand_as(x)[kept], y[kept], x[kept]]
    assert float((found == picture.slot[kept]).float().mean()) > 0.93  # the rest is newly hidden


def test_hits_lie_on_the_surface_and_normals_point_out_of_it():
    scenes, size = lay_out(2, list(range(8)), Knobs()), 48
    picture = render(scenes, size, Knobs())
    body = (picture.slot + torch.arange(8)[:, None, None] * scenes.kind.shape[1])[picture.slot >= 0]
    local = to_local(scenes, body, _points(scenes, picture)[:, picture.slot >= 0])
    kind, sizes = scenes.kind.reshape(-1)[body], scenes.size.reshape(3, -1)[:, body]
    outward = normal(kind, local, sizes)
    assert set(kind.tolist()) == set(range(5))
    assert float(inside(kind, local - 3e-4 * outward, sizes).float().mean()) > 0.99
    assert float((~inside(kind, local + 3e-4 * outward, sizes)).float().mean()) > 0.99
    assert float((dot(outward, outward) - 1).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("kind", "size", "origin", "direction", "expected"),
    [
        (0, (1.0, 1.0, 1.0), (5.0, 0.0, 0.0), (-1.0, 0.0, 0.0), 4.0),
        (1, (1.0, 2.0, 3.0), (5.0, 0.0, 0.0), (-1.0, 0.0, 0.0), 4.0),
        (2, (1.0, 1.0, 2.0), (0.0, 0.0, 5.0), (0.0, 0.0, -1.0), 3.0),
        (3, (1.0, 1.0, 1.0), (5.0, 0.0, 0.0), (-1.0, 0.0, 0.0), 4.5),
        (4, (1.0, 0.25, 1.0), (5.0, 0.0, 0.0), (-1.0, 0.0, 0.0), 3.75),
        (4, (1.0, 0.25, 1.0), (0.0, 0.0, 5.0), (0.0, 0.0, -1.0), float("inf")),
        (0, (1.0, 1.0, 1.0), (5.0, 0.0, 0.0), (1.0, 0.0, 0.0), float("inf")),
    ],
)
def test_worked_intersections(kind, size, origin, direction, expected):
    origin, direction, size = (torch.tensor(v)[:, None] for v in (origin, direction, size))
    t = intersect(torch.tensor([kind]), origin, direction, size)
    assert float(t) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "knob",
    [
        {"light": 0.4}, {"texture": "stripes"}, {"background": "checker"}, {"fov": 35.0}, {"blur": 1.0}, {"noise": 0.1},
        {"balance": 0.01}, {"occlusion": 1.0}, {"objects": (2, 3)}, {"radius": (0.4, 0.6)}, {"lights": 3},
        {"shadows": False}, {"texture": "real"},
    ],
)  # fmt: skip
def test_every_knob_changes_the_pictures(knob):
    plain = Batch.of(World(8, size=32).make(range(8))).image
    changed = Batch.of(World(8, size=32, knobs=Knobs(**knob)).make(range(8))).image
    assert float((plain - changed).abs().mean()) > 1e-4
    assert bool(torch.isfinite(changed).all())


def test_label_noise_changes_labels_alone():
    clean, noisy = (World(64, "classification", 16, knobs=Knobs(label_noise=p)) for p in (0.0, 0.5))
    assert 16 < sum(clean[i].label != noisy[i].label for i in range(64)) < 48
    assert torch.equal(clean[7].image, noisy[7].image)


def test_balance_makes_a_long_tail():
    shares = class_shares(5, 0.01)
    assert float(shares[0] / shares[4]) == pytest.approx(100, rel=1e-4)
    counts = torch.bincount(lay_out(0, list(range(400)), Knobs(objects=(1, 1), balance=0.01)).kind[:, 0], minlength=5)
    assert int(counts[0]) > 200
    assert int(counts[4]) < 20


@pytest.mark.parametrize("classes", [5, 20, 32, 160])
def test_classes_are_named_and_reached(classes):
    world = World(2000, "classification", size=16, classes=classes)
    assert len(set(world.class_names)) == classes
    scenes = lay_out(0, list(range(2000)), Knobs(objects=(1, 1)), classes, single=True)
    labels = [class_of(scenes, i, classes) for i in range(2000)]
    assert set(labels) == set(range(classes))
    assert [sample.label for sample in world.make(range(20))] == labels[:20]


def test_splits_share_no_scene():
    splits = open_data("world", size=16, train=5, validation=5, test=5)
    ids = [part[i].id for part in (splits.train, splits.validation, splits.test) for i in range(5)]
    assert len(set(ids)) == 15


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"task": "sleeping"}, "task"), ({"size": 4}, "size"), ({"train": 0}, "length"), ({"classes": 161}, "classes"),
        ({"fields": ["smell"]}, "fields"), ({"objects": [3, 2]}, "objects"), ({"radius": [0, 1]}, "radius"),
        ({"texture": "silk"}, "texture"), ({"background": "sea"}, "background"), ({"fov": 180.0}, "fov"),
        ({"blur": -1.0}, "blur"), ({"noise": 2.0}, "noise"), ({"balance": 0.0}, "balance"), ({"lights": 0}, "lights"),
        ({"label_noise": 1.5}, "label_noise"), ({"light": -1.0}, "light"), ({"objects": [1]}, "objects"),
    ],
)  # fmt: skip
def test_bad_options_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        open_data("world", **options)
