"""Run lengths and polygons against pycocotools.mask."""

import numpy as np
import pytest
import torch
from pycocotools import mask as oracle

from oculi.data.formats.run_length import decode, encode, fill, pack, unpack

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, numpy 2


def random_masks():
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (1, 9), (7, 1), (5, 6), (64, 64), (33, 90), (480, 640)]:
        for share in (0, 0.02, 0.5, 0.98, 1):
            yield rng.random((height, width)) < share
    y, x = np.mgrid[:480, :640]
    yield (x - 300) ** 2 + (y - 200) ** 2 < 150**2


def test_run_lengths_equal_pycocotools():
    for mask in random_masks():
        theirs = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))
        ours = encode(torch.from_numpy(mask))
        assert ours == {"size": theirs["size"], "counts": theirs["counts"].decode()}
        assert np.array_equal(decode(theirs).numpy(), mask)
        plain = encode(torch.from_numpy(mask), packed=False)
        assert np.array_equal(decode(plain).numpy(), mask)
        if mask.size:
            assert oracle.frPyObjects(plain, *mask.shape) == theirs


def test_packing_of_any_numbers_is_undone():
    rng = np.random.default_rng(1)
    for _ in range(100):
        counts = rng.integers(0, 2 ** int(rng.integers(1, 40)), int(rng.integers(0, 12)))
        assert np.array_equal(unpack(pack(counts)), counts)


def test_polygons_equal_pycocotools():
    rng = np.random.default_rng(2)
    for case in range(400):
        height, width = int(rng.integers(1, 70)), int(rng.integers(1, 70))
        corners = rng.uniform(-6, 75, (int(rng.integers(3, 12)), 2))
        if case % 3 == 0:
            corners = np.round(corners * 2) / 2
        if case % 5 == 0:
            corners[:, 0] = corners[:, 0].clip(0, width)
            corners[:, 1] = corners[:, 1].clip(0, height)
        grid = (5 * corners + 0.5).astype(int)
        if (grid == np.roll(grid, 1, 0)).all(1).any():
            continue  # a corner twice in a row: the reference divides by zero
        flat = corners.flatten().tolist()
        theirs = oracle.decode(oracle.frPyObjects([flat], height, width))[..., 0]
        assert np.array_equal(fill([flat], height, width).numpy(), theirs == 1), case


def test_several_polygons_are_united():
    two = [[1.0, 1, 9, 1, 9, 9, 1, 9], [5.0, 5, 15, 5, 15, 15, 5, 15]]
    theirs = oracle.decode(oracle.merge(oracle.frPyObjects(two, 20, 20)))
    assert np.array_equal(fill(two, 20, 20).numpy(), theirs == 1)
