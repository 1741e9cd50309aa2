"""Boundary IoU against erosion by OpenCV, its limits, and bad input."""

import cv2
import numpy as np
import pytest
import torch

from oculi.metrics.boundary_iou import boundary, boundary_counts, boundary_iou, usual_distance


def disc(radius, size=40, x=20.0):
    at = torch.arange(size) + 0.5
    return (at[:, None] - 20) ** 2 + (at - x) ** 2 <= radius**2


def test_the_boundary_is_what_erosion_takes_away():
    torch.manual_seed(0)
    for distance in (1, 2, 5):
        mask = torch.from_numpy(cv2.blur(torch.rand(30, 41).numpy(), (5, 5)) > 0.5)
        padded = np.pad(mask.numpy().astype(np.uint8), 1)
        inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
        assert (boundary(mask, distance).numpy() == (mask.numpy() & (inner == 0))).all()


def test_by_hand():
    """Two squares of 4 x 4, one pixel apart: rings of 12 pixels each that share 6 of the 18 that either has."""
    a, b = torch.zeros(2, 9, 9, dtype=torch.bool)
    a[2:6, 2:6], b[2:6, 3:7] = True, True
    rings = boundary(a, 1), boundary(b, 1)
    shared, joined = int((rings[0] & rings[1]).sum()), int((rings[0] | rings[1]).sum())
    assert [int(r.sum()) for r in rings] == [12, 12]
    assert float(boundary_iou(a, b, 1)) == shared / joined == pytest.approx(6 / 18)


def test_a_distance_that_covers_the_objects_gives_mask_iou():
    a, b = disc(9), disc(11, x=23)
    assert float(boundary_iou(a, b, 30)) == float((a & b).sum()) / float((a | b).sum())


def test_falls_as_the_prediction_grows_and_faster_than_mask_iou():
    truth = disc(12)
    grown = torch.stack([disc(12 + k) for k in range(6)])
    values = boundary_iou(grown, truth.expand_as(grown)).tolist()
    assert values[0] == 1
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 6 or values[-1] == 0
    assert values[1] < float((grown[1] & truth).sum()) / float((grown[1] | truth).sum())


def test_counts_of_classes_leave_out_unknown_pixels():
    truth = disc(10)[None].long()
    said = disc(9)[None].long()
    shared, joined = boundary_counts(said, truth, 3, 2)
    for k in (0, 1):
        assert float(shared[k]) / float(joined[k]) == float(boundary_iou(said[0] == k, truth[0] == k, 2))
    assert int(joined[2]) == 0
    unknown = torch.where(disc(11)[None] & ~disc(8)[None], 255, truth)
    assert boundary_counts(said, unknown, 2, 2)[1].sum() < joined.sum()


@pytest.mark.unchecked
def test_empty_masks_and_bad_input():
    empty = torch.zeros(5, 5, dtype=torch.bool)
    assert float(boundary_iou(empty, empty)) == 1
    assert float(boundary_iou(empty, ~empty)) == 0
    assert usual_distance(64, 64) == 2
    with pytest.raises(ValueError, match="b: expected the shape of a"):
        boundary_iou(empty, empty[1:])
    with pytest.raises(ValueError, match="distance: expected at least 1"):
        boundary(empty, -1)
    with pytest.raises(ValueError, match="predicted: expected the shape of truth"):
        boundary_counts(empty[None].long(), empty[None, 1:].long(), 2)
