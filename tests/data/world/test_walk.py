"""Walks: frames, depth and cameras of one still World agree with each other."""

import pytest
import torch

from oculi.classical.monocular_depth_unsupervised import photometric_error, reproject
from oculi.data.sources import open_data


@pytest.fixture(scope="module")
def samples():
    train = open_data("world_walk", train=3, validation=1, test=1, size=48, background="checker").train
    return [train[i] for i in range(3)]


def test_first_frame_and_its_depth_make_the_second(samples):
    for sample in samples:
        pose, K = sample.camera.world_to_camera, sample.camera.K[:1]
        T = (pose[1] @ torch.linalg.inv(pose[0]))[None]
        made = reproject(sample.video[1:2], sample.depth[None], T, K)
        still = photometric_error(sample.video[1:2], sample.video[:1])
        assert float(photometric_error(made, sample.video[:1]).mean()) < 0.5 * float(still.mean())


def test_it_moves_evenly_and_image_is_the_first_frame(samples):
    for sample in samples:
        assert sample.video.shape == (3, 3, 48, 48)
        assert torch.equal(sample.image, sample.video[0])
        centres = sample.camera.center
        torch.testing.assert_close(centres[1] - centres[0], centres[2] - centres[1], rtol=1e-3, atol=1e-4)
        assert 0 < float((centres[1] - centres[0]).norm()) < 0.5 * 1.5**0.5


def test_marble_is_nowhere_flat_and_moves_nothing():
    marble, plain = (
        open_data("world_walk", train=1, validation=1, test=1, size=48, background=name).train[0]
        for name in ("marble", "plain")
    )
    assert torch.equal(marble.depth, plain.depth)

    def flat(sample):  # share of 5 x 5 windows without contrast
        windows = sample.image.mean(0).unfold(0, 5, 5).unfold(1, 5, 5)
        return float((windows.flatten(2).std(2) < 0.005).float().mean())

    assert flat(marble) < 0.02
    assert flat(plain) > 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [({"frames": 1}, "frames"), ({"size": 8}, "size"), ({"speed": -1.0}, "speed"), ({"objects": [1, 2, 3]}, "objects")],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        open_data("world_walk", **options)
