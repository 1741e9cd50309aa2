"""The simulated user: clicks lie where the mask is wrong and say what is true there."""

import torch

from oculi.nn.prompt_encoder import FIRST_CORNER, LAST_CORNER, NONE, ON
from oculi.segment.interactive_training import chosen_objects, first_prompt, next_click, random_pixel


def discs(n: int = 40, side: int = 24):
    place = torch.rand(n, 2) * side
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    return ((x - place[:, :1, None]) ** 2 + (y - place[:, 1:, None]) ** 2) < 30


def at(masks, points):
    column, row = points.long().unbind(1)
    return masks[torch.arange(len(masks)), row, column]


def test_click_labels_match_the_kind_of_error():
    torch.manual_seed(0)
    said, truth = discs(200), discs(200)
    points, labels = next_click(said, truth)
    assert bool(at(said ^ truth, points).all())
    assert torch.equal(labels == 1, at(truth, points))
    assert 0 < int(labels.sum()) < 200


def test_where_all_is_right_the_object_is_clicked():
    torch.manual_seed(0)
    truth = discs()
    points, labels = next_click(truth.clone(), truth)
    assert bool((labels == 1).all())
    assert bool(at(truth, points).all())


def test_first_prompts_are_points_on_the_object_or_boxes_near_its_own():
    torch.manual_seed(0)
    truth = discs(400)
    points, labels = first_prompt(truth)
    clicked = labels[:, 0] == ON
    assert 140 < int(clicked.sum()) < 260
    assert bool((labels[clicked, 1] == NONE).all())
    assert bool(at(truth[clicked], points[clicked, 0]).all())
    assert bool((labels[~clicked] == torch.tensor([FIRST_CORNER, LAST_CORNER])).all())
    middle = points[~clicked].mean(1)
    y, x = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(24) + 0.5, indexing="ij")
    boxed = truth[~clicked].float()
    mean = torch.stack([(boxed * x).sum((1, 2)), (boxed * y).sum((1, 2))], 1) / boxed.sum((1, 2))[:, None]
    assert float((middle - mean).norm(dim=1).median()) < 1.5


def test_every_pixel_of_a_region_has_its_chance():
    torch.manual_seed(0)
    region = torch.zeros(500, 3, 3, dtype=torch.bool)
    region[:, 0, 2] = region[:, 2, 1] = True
    x, y = random_pixel(region).unbind(1)
    assert set(zip(x.tolist(), y.tolist(), strict=True)) == {(2.5, 0.5), (1.5, 2.5)}
    assert random_pixel(torch.zeros(1, 3, 3, dtype=torch.bool)).shape == (1, 2)


def test_chosen_objects_are_different_ones_and_real_where_there_are_any():
    torch.manual_seed(0)
    three = torch.eye(3, dtype=torch.bool).view(3, 1, 3)
    masks, real = chosen_objects([three, three[:1], three[:0]], 2)
    assert real.tolist() == [[1, 1], [1, 0], [0, 0]]
    assert not torch.equal(masks[0, 0], masks[0, 1])
    assert int(masks.sum()) == 3
