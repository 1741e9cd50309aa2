"""Mosaic and copy-paste: boxes are exactly tight around what is still seen, and everything else follows the pixels."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oculi.data.augment import smaller
from oculi.data.datasets import Splits
from oculi.data.mosaic import Composing, mosaic, paste, shifted
from oculi.data.sources import open_data
from oculi.learn.learner import fit
from oculi.learn.optimisation import Training
from oculi.learn.training import build
from oculi.ops.boxes import mask_boxes
from oculi.types import Batch


@pytest.fixture(scope="module")
def world():
    splits = open_data("world", size=48, train=16, validation=2, test=2, fields=["semantic", "panoptic"])
    batch = Batch.of([splits.train[i] for i in range(16)])
    points = [torch.cat([b[:, :2], b[:, 2:]], 1).reshape(-1, 2, 2) - 0.5 for b in batch.boxes]
    points = [torch.cat([p, torch.full((*p.shape[:2], 1), 2.0)], -1) for p in points]
    return replace(batch, keypoints=points, crowd=[torch.zeros(len(b), dtype=torch.bool) for b in batch.boxes])


def consistent(batch):
    """Boxes tight around disjoint masks, semantic and panoptic maps as the masks say."""
    for i in range(len(batch)):
        sample = batch[i]
        count = len(sample.boxes)
        assert all(len(v) == count for v in (sample.labels, sample.masks, sample.crowd, sample.keypoints))
        assert torch.equal(mask_boxes(sample.masks).reshape(-1, 4), sample.boxes)
        assert int(sample.masks.sum(0).max()) <= 1 if count else True
        numbers = set()
        for mask, label in zip(sample.masks, sample.labels.tolist(), strict=True):
            assert bool((sample.semantic[mask] == label + 1).all())
            (number,) = sample.panoptic[mask].unique().tolist()
            numbers.add(number)
        assert 0 not in numbers
        assert len(numbers) == count


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31))
def test_pasted_objects_keep_all_truth_consistent(world, seed):
    torch.manual_seed(seed)
    made = Composing(paste=1.0, objects=0.7, move=0.4, keep=0.0)(world)
    consistent(made)
    assert made.caption is None
    assert any(len(a) > len(b) for a, b in zip(made.boxes, world.boxes, strict=True))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31))
def test_mosaics_keep_all_truth_consistent(world, seed):
    torch.manual_seed(seed)
    made = Composing(mosaic=1.0, keep=0.0)(world)
    consistent(made)
    assert sum(map(len, made.boxes)) > 1.5 * sum(map(len, world.boxes))
    assert float(made.image.min()) >= 0
    assert float(made.image.max()) <= 1 + 1e-5


def test_four_quarters_of_one_picture_by_hand():
    image = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 1, 8, 8)
    box = torch.tensor([[2.0, 2, 6, 4]])
    batch = Batch(image=image, boxes=[box] * 4, labels=[torch.tensor([k]) for k in range(4)])
    tiles = torch.tensor([[0, 3], [1, 2], [2, 1], [3, 0]])
    made = mosaic(batch, torch.cat([tiles, tiles], 1), torch.tensor([[4.0, 4.0], [2.0, 6.0]] * 2))
    assert made.image[0, 0, ::4, ::4].tolist() == [[0, 1], [2, 3]]
    assert made.image[1, 0, [0, 0, 7, 7], [1, 2, 1, 2]].tolist() == [3, 2, 1, 0]
    assert made.boxes[0].tolist() == [[1, 1, 3, 2], [5, 1, 7, 2], [1, 5, 3, 6], [5, 5, 7, 6]]
    assert made.labels[0].tolist() == [0, 1, 2, 3]
    # the second centre (2, 6): tiles of 3/4, 3/4, 1/4 and 3/4; of all but the upper right one too little is seen
    assert made.boxes[1].tolist() == [[3.5, 1.5, 6.5, 3]]
    assert made.labels[1].tolist() == [2]
    kept = mosaic(batch, tiles[:, :1].repeat(1, 4), torch.full((4, 2), 4.0), keep=1.0)
    assert len(kept.boxes[0]) == 4


def test_what_is_pasted_hides_and_what_is_hidden_goes():
    masks = torch.zeros(2, 1, 6, 6, dtype=torch.bool)
    masks[0, 0, 1:5, 1:3] = masks[1, 0, 0:3, 0:2] = True
    points = torch.tensor([[[1.5, 1.5, 2.0], [2.5, 4.5, 2.0]]])
    batch = Batch(
        image=torch.stack([torch.zeros(1, 6, 6), torch.ones(1, 6, 6)]), boxes=list(mask_boxes(masks)),
        labels=[torch.tensor([0]), torch.tensor([1])], masks=list(masks), keypoints=[points, points],
        crowd=[torch.tensor([False])] * 2, semantic=torch.stack([masks[0, 0] * 1, masks[1, 0] * 2]),
    )  # fmt: skip
    none, all_ = torch.tensor([False]), torch.tensor([True])
    made = paste(batch, torch.tensor([1, 0]), [all_, none], torch.tensor([[1, 1], [0, 0]]))
    assert made.boxes[0].tolist() == [[1, 4, 3, 5], [1, 1, 3, 4]]  # what is left of the first, then the second moved
    assert made.labels[0].tolist() == [0, 1]
    assert made.image[0, 0].sum() == 6
    assert made.semantic[0].unique().tolist() == [0, 1, 2]
    assert made.keypoints[0][0, :, 2].tolist() == [1, 2]  # the first point is hidden now
    assert torch.equal(made.image[1], batch.image[1])
    assert torch.equal(made.boxes[1], batch.boxes[1])
    gone = paste(batch, torch.tensor([1, 0]), [all_, none], torch.tensor([[1, 1], [0, 0]]), keep=0.5)
    assert gone.labels[0].tolist() == [1]
    cut = paste(batch, torch.tensor([1, 0]), [all_, none], torch.tensor([[5, 0], [0, 0]]))
    assert cut.boxes[0].tolist() == [[1, 1, 3, 5], [5, 0, 6, 3]]  # as far as it lies inside
    crowd = replace(batch, crowd=[torch.tensor([True])] * 2)
    same = paste(crowd, torch.tensor([1, 0]), [all_, all_], torch.zeros(2, 2).long())
    assert torch.equal(same.image, batch.image)


def test_the_seed_decides_and_the_input_is_left_alone(world):
    before = [world.image.clone(), *(m.clone() for m in world.masks)]
    composing = Composing(mosaic=0.5, paste=0.5)
    torch.manual_seed(3)
    first = composing(world)
    torch.manual_seed(3)
    second = composing(world)
    assert torch.equal(first.image, second.image)
    assert all(torch.equal(a, b) for a, b in zip([world.image, *world.masks], before, strict=True))
    untouched = (first.image == world.image).flatten(1).all(1)
    assert 0 < int(untouched.sum()) < 16
    assert torch.equal(Composing()(world).image, world.image)


def test_pictures_alone_and_boxes_alone():
    image = torch.rand(4, 3, 8, 8)
    assert Composing(mosaic=1.0)(Batch(image=image)).image.shape == image.shape
    assert shifted(image, [9, 0]).abs().sum() == 0
    assert torch.equal(shifted(image, [2, -3])[..., :5, 2:], image[..., 3:, :6])
    with pytest.raises(ValueError, match=r"batch.masks, batch.boxes, batch.labels"):
        Composing(paste=1.0)(Batch(image=image))
    with pytest.raises(ValueError, match=r"batch.label"):
        Composing(mosaic=1.0)(Batch(image=image, label=torch.zeros(4).long()))
    with pytest.raises(ValueError, match=r"batch.depth"):
        Composing(mosaic=1.0)(Batch(image=image, depth=torch.zeros(4, 8, 8)))
    with pytest.raises(ValueError, match="paste: expected a share"):
        Composing(paste=2.0)


def test_dense_answers_shrink_with_their_pictures(world):
    half = smaller(world, 0.5)
    assert half.image.shape[-2:] == half.semantic.shape[-2:] == half.panoptic.shape[-2:] == (24, 24)
    for i in range(16):
        assert len(half.boxes[i]) == len(half.labels[i]) == len(half.masks[i]) == len(half.keypoints[i])
        for box, mask, label in zip(half.boxes[i], half.masks[i], half.labels[i].tolist(), strict=True):
            assert float((mask_boxes(mask) - box).abs().max()) <= 1
            assert bool((half.semantic[i][mask] == label + 1).all())
    whole = smaller(world, 1.0)
    assert torch.equal(whole.semantic, world.semantic)
    assert all(torch.equal(a, b) for a, b in zip(whole.boxes, world.boxes, strict=True))
    tiny = smaller(world, 1 / 48)
    assert all(len(b) == len(m) for b, m in zip(tiny.boxes, tiny.masks, strict=True))


@pytest.mark.parametrize("options", [{"compose": {"mosaic": 0.5, "paste": 0.5}}, {"vary": 0.5}, {"grow": 0.5}])
def test_a_recipe_can_ask_for_it(options):
    splits = open_data("world", size=32, train=8, validation=2, test=2)
    system = build("faster_rcnn", tiny=True, num_classes=5)
    training = Training(steps=3, batch_size=4, **options)
    fit(system, training, Splits(splits.train, splits.validation, splits.test, splits.class_names), progress=False)
