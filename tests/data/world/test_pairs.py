"""Pairs of views: the cameras agree with the depths, splits share nothing, the same number gives the same bits."""

from __future__ import annotations

import pytest
import torch

from oculi.data.world.pairs import load
from oculi.geometry.pointmaps import change_frame, pointmap, project_pointmap


def test_a_surface_point_has_the_same_depth_and_colour_in_the_other_view():
    for pair in (load(train=3, validation=1, test=1, seed=5).train[i] for i in range(3)):
        moved = change_frame(pointmap(pair.depth, pair.camera.K), pair.camera, pair.next_camera)
        pixel = project_pointmap(moved, pair.next_camera.K)
        inside = ((pixel > 1) & (pixel < 63)).all(-1)
        x, y = pixel[inside].floor().long().unbind(-1)
        depth = moved[..., 2][inside]
        agree = (pair.next_depth[y, x] - depth).abs() < 0.05 * depth
        assert float(inside.float().mean()) > 0.5
        assert float(agree.float().mean()) > 0.8
        assert float((pair.next_image[:, y, x] - pair.image[:, inside])[:, agree].abs().mean()) < 0.06


def test_numbers_decide_the_pair_alone():
    splits = load(size=16, train=20, validation=3, test=2, seed=1)
    names = [one[i].id for one in (splits.train, splits.validation, splits.test) for i in range(len(one))]
    assert len(set(names)) == 25
    again = load(size=16, train=20, validation=3, test=2, seed=1)
    for one, other in zip((again.train[18], again.train[2]), (splits.train[18], splits.train[2])):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.next_depth, other.next_depth)
        assert torch.equal(one.next_camera.world_to_camera, other.next_camera.world_to_camera)
    alone = splits.train.make(range(18, 19))[0]
    assert torch.equal(alone.next_depth, splits.train[18].next_depth)
    focal = {round(float(splits.train[i].camera.K[0, 0]), 3) for i in range(5)}
    assert len(focal) == 5
    assert torch.equal(splits.train[3].camera.K, splits.train[3].next_camera.K)


@pytest.mark.unchecked
def test_bad_input_is_named():
    for bad in ({"size": 8}, {"train": 0}, {"turn": 3.0}, {"fov": (60, 50)}, {"objects": (1, 2, 3)}):
        with pytest.raises(ValueError, match="length" if "train" in bad else next(iter(bad))):
            load(**bad)
