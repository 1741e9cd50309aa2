"""Outlines of bitmaps: filled again they are the bitmap, by our rule and by pycocotools'."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as oracle

from oculi.data.formats.polygons import crosses_itself, joined, polygon_box, polygons
from oculi.data.formats.run_length import fill

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, numpy 2


def theirs(parts, height, width):
    return oracle.decode(oracle.merge(oracle.frPyObjects(parts, height, width))).astype(bool)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 14), st.integers(1, 14), st.floats(0.05, 0.95))
def test_filled_again_it_is_the_same_bitmap(seed, height, width, share):
    mask = torch.from_numpy(np.random.default_rng(seed).random((height, width)) < share)
    parts = polygons(mask)
    assert torch.equal(fill(parts, height, width), mask)
    if parts:
        assert np.array_equal(theirs(parts, height, width), mask.numpy())
        whole = joined(parts)
        assert torch.equal(fill([whole], height, width), mask)
        rows, columns = (mask.any(axis).nonzero() for axis in (1, 0))
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert polygon_box(parts) == [float(v) for v in tight]
    assert not any(crosses_itself(part) for part in parts)


def test_a_ring_with_an_island_by_hand():
    mask = torch.ones(7, 7, dtype=torch.bool)
    mask[1:6, 1:6] = False
    mask[3, 3] = True
    parts = sorted(polygons(mask), key=len)
    assert parts[0] == [3, 3, 4, 3, 4, 4, 3, 4]
    assert len(parts) == 2
    assert torch.equal(fill(parts, 7, 7), mask)


def test_pixels_that_touch_at_a_corner_are_two_outlines():
    assert polygons(torch.eye(2, dtype=torch.bool)) == [[0, 0, 1, 0, 1, 1, 0, 1], [1, 1, 2, 1, 2, 2, 1, 2]]
    assert polygons(torch.zeros(3, 3, dtype=torch.bool)) == []
    assert joined([]) == []


def test_a_large_mask_is_quick_and_exact():
    y, x = torch.meshgrid(torch.arange(480), torch.arange(640), indexing="ij")
    disc = ((x - 300) ** 2 + (y - 200) ** 2 < 150**2) & ((x - 320) ** 2 + (y - 210) ** 2 > 40**2)
    parts = polygons(disc)
    assert len(parts) == 1
    assert torch.equal(fill(parts, 480, 640), disc)


def test_what_crosses_itself():
    assert crosses_itself([0, 0, 4, 4, 4, 0, 0, 4])
    assert crosses_itself([0, 0, 6, 0, 6, 4, 2, -1, 0, 4])
    assert not crosses_itself([0, 0, 4, 0, 4, 4, 2, 0, 0, 4])  # touches only
    assert not crosses_itself([0, 0, 4, 0, 4, 0, 4, 4])
