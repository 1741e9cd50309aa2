"""Sparse flow: exact motions, OpenCV's tracker on the same points, what cannot be followed, bad input."""

import cv2
import numpy as np
import pytest
import torch

from oculi.classical.lucas_kanade import moving_photographs, shifted_photographs
from oculi.classical.sparse_feature_flow import good_points, track_points


def test_half_a_pixel():
    batch = shifted_photographs(128, 1)
    points = good_points(batch.image[0], 200)
    answer = track_points(batch.image[0], batch.next_image[0], points)
    inner = answer.found & ((points > 12) & (points < 116)).all(1)
    assert int(inner.sum()) > 15
    assert float((answer.flow[inner] - 0.5).norm(dim=1).median()) < 0.05


def test_smooth_motion_as_opencv_finds_it():
    batch, _ = moving_photographs(192, 5.0, seed=2, photos=1)
    points = good_points(batch.image[0], 200)
    pictures = [(255 * p[0, 0]).clamp(0, 255).round() for p in (batch.image, batch.next_image)]
    answer = track_points(*(p[None] / 255 for p in pictures), points)
    start = (points - 0.5).numpy()[:, None]
    arrays = [p.to(torch.uint8).numpy() for p in pictures]
    end, status, _ = cv2.calcOpticalFlowPyrLK(*arrays, start, None, winSize=(21, 21), maxLevel=3)
    x, y = points.long().unbind(1)
    truth = batch.flow[0][:, y, x].T
    both = answer.found & torch.from_numpy(status[:, 0]).bool() & ((points > 16) & (points < 176)).all(1)
    assert int(both.sum()) > 40
    theirs = torch.from_numpy((end - start)[:, 0])
    apart = (answer.flow - theirs).norm(dim=1)[both]
    assert float(apart.median()) < 0.05
    mine, other = ((f - truth).norm(dim=1)[both] for f in (answer.flow, theirs))
    assert float(mine.mean()) <= float(other.mean()) + 0.02
    assert float(mine.median()) < 0.4


def test_good_points_are_opencvs_corners():
    """Corners of bright squares; the smaller eigenvalue of OpenCV is as large there."""
    picture = torch.zeros(1, 60, 80)
    picture[:, 10:30, 15:40] = 1.0
    picture[:, 38:50, 50:70] = 0.8
    points = good_points(picture, 8)
    assert len(points) == 8
    expected = torch.tensor([(x, y) for x in (15, 40) for y in (10, 30)] + [(x, y) for x in (50, 70) for y in (38, 50)])
    assert float(torch.cdist(points, expected.float()).min(1).values.max()) < 2.2
    theirs = cv2.cornerMinEigenVal(picture[0].numpy(), 5)
    x, y = points.long().unbind(1)
    assert float(theirs[y.numpy(), x.numpy()].min()) > 0.3 * float(theirs.max())


def test_no_texture_is_not_found():
    flat = torch.full((1, 40, 40), 0.5)
    assert good_points(flat).shape == (0, 2)
    points = torch.tensor([[20.0, 20.0], [5.0, 30.0]])
    answer = track_points(flat, flat, points)
    assert not bool(answer.found.any())
    assert float(answer.flow.abs().max()) == 0
    stripes = (torch.arange(40) % 8 < 4).float().expand(1, 40, 40).contiguous()
    assert not bool(track_points(stripes, stripes, points).found.any())


def test_a_picture_and_itself_do_not_move():
    picture = shifted_photographs(96, 1).image[0]
    answer = track_points(picture, picture, good_points(picture, 50))
    assert float(answer.flow.abs().max()) < 1e-3
    assert float(answer.residual.max()) < 1e-3


def test_no_points_and_points_at_the_edge():
    picture = shifted_photographs(64, 1).image[0]
    assert track_points(picture, picture, torch.zeros(0, 2)).flow.shape == (0, 2)
    edge = torch.tensor([[0.5, 0.5], [63.5, 63.5], [0.0, 40.0]])
    assert bool(torch.isfinite(track_points(picture, picture.flip(1), edge).flow).all())


@pytest.mark.unchecked
def test_bad_input():
    picture = torch.rand(1, 32, 32)
    points = torch.tensor([[10.0, 10.0]])
    for arguments, word in (
        ((picture, picture[:, :16], points), "next_image"),
        ((picture, picture, points[0]), "points"),
        ((picture, picture * torch.nan, points), "next_image"),
        ((picture, picture, points * torch.inf), "points"),
    ):
        with pytest.raises(ValueError, match=word):
            track_points(*arguments)
    with pytest.raises(ValueError, match="window"):
        track_points(picture, picture, points, window=4)
    with pytest.raises(ValueError, match="image"):
        good_points(picture[0])
    assert np.isfinite(float(track_points(picture, picture, points).residual))
