"""Same colour or not: the label is in the picture, takes both objects, and nothing near either tells it."""

import pytest
import torch

from oculi.data.datasets import batches
from oculi.data.same_colour import SameColour
from oculi.data.sources import open_data


def test_half_of_the_scenes_are_the_same_and_the_first_colour_says_nothing():
    scenes, label = SameColour(1).scenes(list(range(2000)))
    assert float(label.float().mean()) == pytest.approx(0.5, abs=0.03)
    assert torch.equal(scenes.colour[:, 0] == scenes.colour[:, 1], label.bool())
    for slot in (0, 1):  # one object alone
        for colour in range(8):
            share = label[scenes.colour[:, slot] == colour].float().mean()
            assert float(share) == pytest.approx(0.5, abs=0.12)
    assert bool(scenes.exists.all())


def test_the_objects_stand_apart_in_the_picture_and_have_their_colours():
    data, size = SameColour(32, 64), 64
    scenes, label = data.scenes(list(range(32)))
    images = torch.stack([data[i].image for i in range(32)])
    cameras = scenes.cameras(size)
    hue = []
    for slot in (0, 1):
        pixel = torch.stack([cameras[i].project(scenes.center[:, i, slot][None])[0][0] for i in range(32)])
        assert ((pixel > 2) & (pixel < size - 2)).all()
        hue.append(pixel)
    assert ((hue[1] - hue[0]).norm(dim=1) > 25).all()
    solid = (scenes.kind != 4).all(1).nonzero()[:, 0].tolist()  # a torus has a hole in its middle
    for i in solid:
        shades = [images[i][:, int(p[i][1]), int(p[i][0])] for p in hue]
        alike = torch.nn.functional.cosine_similarity(*shades, dim=0)
        if label[i] == 1:
            assert alike > 0.97


def test_scenes_depend_on_seed_and_number_alone():
    alone = SameColour(1, 32, seed=3, start=7)[0]
    among = SameColour(9, 32, seed=3)[7]
    assert torch.equal(alone.image, among.image)
    assert alone.label == among.label
    assert alone.id == among.id
    assert not torch.equal(SameColour(9, 32, seed=4)[7].image, among.image)


def test_as_a_source():
    splits = open_data("same_colour", size=16, train=40, validation=8, test=8)
    assert splits.class_names == ["different", "same"]
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [40, 8, 8]
    batch = next(batches(splits.train, 40))
    assert batch.image.shape == (40, 3, 16, 16)
    assert set(batch.label.tolist()) == {0, 1}
    ids = [splits.train[39].id, splits.validation[0].id, splits.test[0].id]
    assert ids == ["same-colour-0-39", "same-colour-0-40", "same-colour-0-48"]
    with pytest.raises(ValueError, match="apart: expected 4 to 7 metres, got 1"):
        open_data("same_colour", apart=1)
