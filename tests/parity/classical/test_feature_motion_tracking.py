"""Tracking by features: the object's true corners, beside OpenCV's Lucas-Kanade tracker; lost is said."""

import itertools

import cv2
import numpy as np
import pytest
import torch

from oculi.classical.feature_motion_tracking import FeatureMotionTracking, experiment, moving_object
from oculi.classical.sift import photographs


def made(frames: int = 5):
    return moving_object(192, 96, frames, torch.Generator().manual_seed(0))


def test_the_object_is_followed_at_least_as_well_as_by_opencv():
    video, box, truth = made()
    track = FeatureMotionTracking().track(video, box)
    assert bool(track.seen.all())
    mine = float((track.outlines - truth).norm(dim=-1).mean(1)[-1])
    assert mine < 1
    grey = (video[:, 0].clamp(0, 1) * 255).round().byte().numpy()
    x1, y1, x2, y2 = box.round().int().tolist()
    mask = np.zeros_like(grey[0])
    mask[y1:y2, x1:x2] = 1
    first = last = cv2.goodFeaturesToTrack(grey[0], 200, 0.01, 3, mask=mask)
    for before, after in itertools.pairwise(grey):
        last, status, _ = cv2.calcOpticalFlowPyrLK(before, after, last, None)
        kept = status[:, 0] > 0
        first, last = first[kept], last[kept]
    H, _ = cv2.findHomography(first, last, cv2.RANSAC, 2.0)
    moved = cv2.perspectiveTransform(truth[0].numpy()[:, None], H)[:, 0]
    theirs = float((torch.from_numpy(moved) - truth[-1]).norm(dim=1).mean())
    assert mine < theirs + 0.1


def test_a_frame_without_it_is_lost_and_it_is_found_again():
    video, box, _ = made()
    video[2] = photographs(192, 2)[1]
    track = FeatureMotionTracking().track(video, box)
    assert track.seen.tolist() == [True, True, False, True, True]
    assert bool(track.outlines[2].isnan().all())
    assert bool(track.boxes[3].isfinite().all())
    assert int(track.inliers[2]) == 0


def test_one_frame_and_a_still_video():
    video, box, truth = made(1)
    track = FeatureMotionTracking().track(video.expand(2, -1, -1, -1), box)
    assert float((track.outlines - track.outlines[0]).abs().max()) < 0.05
    assert float((FeatureMotionTracking().track(video, box).outlines - truth).abs().max()) < 1e-4


@pytest.mark.unchecked
def test_bad_input():
    video, box, _ = made(2)
    tracker = FeatureMotionTracking()
    with pytest.raises(ValueError, match=r"box.*features"):
        tracker.track(torch.full((2, 1, 64, 64), 0.5), torch.tensor([4.0, 4, 60, 60]))
    with pytest.raises(ValueError, match="box: expected"):
        tracker.track(video, torch.tensor([10.0, 10, 5, 20]))
    with pytest.raises(ValueError, match="video: expected"):
        tracker.track(video[0], box)
    with pytest.raises(ValueError, match=r"video\[1\].*finite"):
        tracker.track(torch.stack([video[0], video[1] * torch.nan]), box)
    with pytest.raises(ValueError, match="inliers"):
        FeatureMotionTracking(inliers=3)


def test_experiment_at_a_small_size():
    figures = experiment(size=160, side=80, frames=3, videos=2)
    assert figures["right_frames"] > 0.6
