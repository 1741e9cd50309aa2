"""Selective search: its formulas by hand, its hierarchy, and how many of the World's objects it proposes."""

import numpy as np
import pytest
import torch

from oculi.data.world.dataset import World
from oculi.detect.selective_search import (
    SelectiveSearch,
    colours,
    group,
    selective_search,
    similarity,
    textures,
)
from oculi.ops.boxes import box_iou

pytest.importorskip("skimage")


def test_similarity_by_hand():
    """Two regions of 2 and 3 pixels of 20, their boxes one next to the other with a hull of 8 pixels."""
    histograms = np.array([[0.5, 0.5, 0.0, 1.0], [0.2, 0.3, 0.5, 1.0]])  # 3 colour bins, 1 texture bin
    boxes = np.array([[0.0, 0, 2, 1], [2.0, 0, 4, 2]])
    found = similarity(0, histograms, np.array([2.0, 3.0]), boxes, 20)
    assert found[1] == pytest.approx((0.2 + 0.3 + 1.0) + (1 - 5 / 20) + (1 - (8 - 5) / 20))


def test_histograms_by_hand():
    pixels = np.zeros((2, 4, 3))
    pixels[:, 2:] = 1.0
    regions = np.array([[0, 0, 1, 1], [0, 0, 1, 1]])
    colour = colours(pixels, regions).reshape(2, 3, 25)
    assert np.allclose(colour[0, :, 0], 1 / 3)
    assert np.allclose(colour[1, :, 24], 1 / 3)
    texture = textures(pixels, regions).reshape(2, 3, 8, 10)
    assert np.allclose(texture.sum((2, 3)), 1 / 3)
    # half the pixels of each region are at the step: rising to the right, 1 / 24 of the region's sum in the last bin
    assert np.allclose(texture[:, :, 0, 9], 1 / 48)
    assert np.allclose(texture[:, :, 4, 0], 1 / 24)


def test_the_hierarchy_merges_what_is_alike_first():
    """Red, dark red, and blue in a row: the reds join, then all."""
    pixels = np.zeros((4, 12, 3))
    pixels[:, :4, 0], pixels[:, 4:8, 0], pixels[:, 8:, 2] = 0.9, 0.89, 0.9
    regions = np.repeat(np.arange(3), 4)[None].repeat(4, 0)
    boxes = group(pixels, regions)
    assert boxes.tolist() == [[0, 0, 4, 4], [4, 0, 8, 4], [8, 0, 12, 4], [0, 0, 8, 4], [0, 0, 12, 4]]


def test_only_neighbours_join():
    """Two like regions on both sides of another one cannot join before it."""
    pixels = np.zeros((4, 12, 3))
    pixels[:, :4], pixels[:, 4:8], pixels[:, 8:] = 0.9, 0.1, 0.9
    boxes = group(pixels, np.repeat(np.arange(3), 4)[None].repeat(4, 0)).tolist()
    assert boxes[3] in ([0, 0, 8, 4], [4, 0, 12, 4])


def test_most_objects_are_proposed():
    found, world = [], World(12, seed=11)
    for index in range(len(world)):
        sample = world[index]
        boxes = selective_search(sample.image)
        assert len(boxes) <= 500
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert len(boxes.unique(dim=0)) == len(boxes)
        assert boxes[0].tolist() == [0, 0, 64, 64]
        found.append(box_iou(sample.boxes, boxes).amax(1) >= 0.7)
    assert torch.cat(found).float().mean() > 0.9


def test_batches_are_padded_and_remembered():
    world, search = World(3, seed=2, size=32), SelectiveSearch(20)
    images = torch.stack([world[0].image, torch.zeros(3, 32, 32), world[2].image])
    boxes, real = search(images)
    assert boxes.shape[1] <= 20
    assert real[1].sum() == 1, "nothing but the whole picture"
    assert boxes[1, 0].tolist() == [0, 0, 32, 32]
    assert torch.equal(boxes[0, real[0]], selective_search(images[0], 20))
    assert len(search.known) == 3
    again, _ = search(images.flip(0) + 1e-4)
    assert len(search.known) == 3
    assert torch.equal(again.flip(0), boxes)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="most"):
        selective_search(torch.rand(3, 8, 8), 0)
    with pytest.raises(ValueError, match=r"spaces.*hsv"):
        selective_search(torch.rand(3, 8, 8), spaces=("hsv",))
