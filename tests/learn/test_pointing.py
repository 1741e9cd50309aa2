"""The pointing game: planted maps hit or miss as they should, and data without boxes are refused."""

import pytest
import torch
from torch.nn import functional as F

from oculi.backbones.lenet import LeNet
from oculi.backbones.network_in_network import NetworkInNetwork
from oculi.data.datasets import Splits
from oculi.learn.evaluation import evaluate
from oculi.learn.protocols.pointing import pointed
from oculi.types import Sample


def test_the_highest_place_of_the_own_class_counts():
    maps = torch.zeros(3, 2, 4, 4)
    maps[0, 1, 1, 2] = 1  # class 1 points to (20, 12) of 32 x 32 pixels, where the box is
    maps[1, 1, 2, 1] = 1  # (12, 20): outside
    maps[2, 0, 1, 2], maps[2, 1, 2, 1] = 1, 9  # the other class does not count
    boxes = torch.tensor([[16.0, 8, 24, 16]]).repeat(3, 1)
    assert pointed(maps, torch.tensor([1, 1, 0]), boxes, 32, 32).tolist() == [True, False, True]


def spots(count: int, size: int = 16) -> list[Sample]:
    """Grey pictures with a red (class 0) or green (class 1) spot somewhere, and its box."""
    samples = []
    for index in range(count):
        x, y, label = 1 + 5 * index % 11, 1 + 3 * index % 11, index % 2
        image = torch.full((3, size, size), 0.5)
        image[label, y : y + 4, x : x + 4] = 1
        samples.append(Sample(image=image, label=label, boxes=torch.tensor([[x, y, x + 4, y + 4]]).float()))
    return samples


def colour_reader() -> NetworkInNetwork:
    """A network whose class maps are the red and the green channel above grey, by its weights."""
    network = NetworkInNetwork(2, [[2]], [1], [], dropout=0.0, image_size=16)
    with torch.no_grad():
        network.blocks[0][0][0].weight.copy_(torch.eye(3)[:2, :, None, None])
        network.blocks[0][0][0].bias.fill_(-0.5)
        network.head.weight.copy_(torch.eye(2)[..., None, None])
        network.head.bias.zero_()
    return network


def test_class_maps_of_a_planted_network_find_the_object():
    samples = spots(24)
    splits = Splits(samples, samples, samples, ["red", "green"])
    figures = evaluate(colour_reader(), splits, "pointing")
    assert figures["pointing_game"] == 1
    assert figures["accuracy"] == 1
    assert figures["chance"] == pytest.approx(16 / 256)


def test_the_class_score_is_the_mean_of_its_map():
    network, image = colour_reader(), torch.rand(2, 3, 16, 16)
    maps = network.class_maps(image)
    assert maps.shape == (2, 2, 16, 16)
    torch.testing.assert_close(maps, F.relu(image[:, :2] - 0.5))
    torch.testing.assert_close(network(image), maps.mean((2, 3)))


def test_what_cannot_point_and_data_without_boxes_are_refused():
    samples = spots(4)
    with pytest.raises(ValueError, match="LeNet has no class_maps"):
        evaluate(LeNet(2, [2, 2], [4], image_size=16), Splits(samples, samples, samples), "pointing")
    for sample in samples:
        sample.boxes = None
    with pytest.raises(ValueError, match="one box per sample"):
        evaluate(colour_reader(), Splits(samples, samples, samples), "pointing")
