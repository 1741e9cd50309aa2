"""Videos of the World: reproducible, the first frame's objects followed, some of them hidden later."""

import pytest
import torch

from oculi.data.sources import open_data


def test_videos_are_reproducible_and_follow_the_objects_of_the_first_frame():
    splits = open_data("world_video", frames=4, size=32, train=3, validation=1, test=1)
    sample = splits.train[2]
    assert sample.video.shape == (4, 3, 32, 32)
    assert torch.equal(sample.image, sample.video[0])
    assert sample.video_masks.shape[1:] == (4, 32, 32)
    assert torch.equal(sample.masks, sample.video_masks[:, 0])
    assert bool(sample.masks.flatten(1).any(1).all())
    assert int(sample.video_masks.sum(0).amax()) <= 1  # no pixel is two objects'
    again = open_data("world_video", frames=4, size=32, train=3, validation=1, test=1)
    assert torch.equal(again.train[2].video, sample.video)
    assert len({s.id for s in (*(splits.train[i] for i in range(3)), splits.validation[0], splits.test[0])}) == 5


def test_objects_move_and_some_vanish():
    splits = open_data("world_video", frames=6, size=32, train=12, validation=1, test=1, speed=1.2)
    seen = torch.cat([splits.train[i].video_masks.flatten(2).any(2) for i in range(12)])
    assert bool(seen[:, 0].all())
    assert 0.5 < float(seen[:, -1].float().mean()) < 1
    still = open_data("world_video", frames=2, size=32, train=1, validation=1, test=1, speed=0.0)
    assert float((still.train[0].video[0] - still.train[0].video[1]).abs().mean()) < 0.05  # they turn on the spot


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="length, frames: expected at least 1 of each, got 3 and 0"):
        open_data("world_video", frames=0, train=3)
    with pytest.raises(ValueError, match="size: expected 16 to 1024 pixels, got 4"):
        open_data("world_video", size=4)
    with pytest.raises(ValueError, match="objects, radius: expected two numbers each"):
        open_data("world_video", objects=[1])
