"""Views of one scene: the cameras agree with the pictures."""

from __future__ import annotations

import pytest
import torch

from oculi.data.world.views import load, pictures


def test_a_surface_point_has_the_same_depth_in_the_next_view():
    first, second = pictures(48, 64, 0)[20:22]
    origin, direction = first.camera.rays()
    point = origin + first.depth.reshape(-1, 1) * direction
    pixel, depth = second.camera.project(point)
    inside = ((pixel > 1) & (pixel < 63)).all(-1) & (depth > 0)
    x, y = pixel[inside].floor().long().unbind(-1)
    agree = (second.depth[y, x] - depth[inside]).abs() < 0.05 * depth[inside]
    assert inside.float().mean() > 0.5
    assert agree.float().mean() > 0.8
    same = (second.image[:, y, x] - first.image.flatten(1)[:, inside]).abs().mean()
    assert float(same) < 0.06


def test_splits_share_no_view():
    splits = load(views=6, test=2, size=16, seed=1)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (6, 1, 2)
    names = [sample.id for sample in [*splits.train, *splits.test]]
    assert len(set(names)) == 8
    assert torch.equal(load(6, 2, 16, 1).train[0].image, splits.train[0].image)


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="test: expected"):
        load(test=0)
