"""Answers: what a picture of detections shows, and what JSON gets."""

import json

import numpy as np
import torch

from oculi.predictions import PALETTE, VIRIDIS, Depth, Detections


def detections():
    """A confident box over an unsure one, one below the threshold, and one without width, as networks may give."""
    masks = torch.zeros(4, 64, 64, dtype=torch.bool)
    masks[0, 20:30, 20:30] = True
    return Detections(
        torch.tensor([[16.0, 16, 48, 48], [16, 16, 48, 48], [2, 2, 9, 9], [50, 5, 50, 9]]),
        torch.tensor([0.9, 0.5, 0.1, 0.4]),
        torch.tensor([0, 1, 2, 9]),
        masks,
        names=["cat", "dog", "cow"],
    )


def pixel(picture, x, y):
    return tuple(np.asarray(picture)[y, x])


def test_the_plot_shows_the_best_on_top_and_leaves_out_the_unsure():
    image = torch.ones(3, 64, 64)
    found = detections()
    picture = found.plot(image)
    assert picture.size == (256, 256)
    assert pixel(picture, 64, 130) == PALETTE[0]
    assert pixel(picture, 8, 30) == (255, 255, 255)
    np.testing.assert_allclose(pixel(picture, 90, 90), [(255 + c) / 2 for c in PALETTE[0]], atol=1)
    assert pixel(found.plot(image, threshold=0.05), 8, 30) == PALETTE[2]
    found.masks = None
    assert pixel(found.plot(image[:1]), 90, 90) == (255, 255, 255)
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    assert nothing.plot(image).getcolors() == [(256 * 256, (255, 255, 255))]


def test_json_holds_the_same_values():
    found = detections()
    told = json.loads(json.dumps(found.to_dict()))
    assert told["boxes"] == found.boxes.tolist()
    assert told["labels"] == [0, 1, 2, 9]
    assert torch.tensor(told["masks"]).equal(found.masks)
    assert "masks" not in Detections(found.boxes, found.scores, found.labels).to_dict()


def test_depth_shows_near_in_yellow_far_in_violet_and_what_is_unknown_in_black():
    depth = torch.full((64, 64), 10.0)
    depth[:32], depth[0, 0], depth[0, 1] = 1.0, 0.0, torch.inf
    depth[63, 63] = 1e6  # one pixel far beyond the rest must not darken them
    picture = Depth(depth).plot()
    assert pixel(picture, 100, 20) == VIRIDIS[-1]
    assert pixel(picture, 100, 200) == VIRIDIS[0]
    assert pixel(picture, 0, 0) == pixel(picture, 5, 0) == (0, 0, 0)
    assert Depth(torch.zeros(8, 8)).plot().size == (256, 256)
