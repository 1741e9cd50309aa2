"""Descriptor matching against OpenCV's brute force, and by hand."""

import cv2
import pytest
import torch

from oculi.ops.matching import match_descriptors


def some(n: int, seed: int) -> torch.Tensor:
    return torch.rand(n, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [30, 90])
def test_mutual_matches_are_opencvs(size):
    first, second = some(size, 0), some(size + 7, 1)
    pairs, distances = match_descriptors(first, second)
    theirs = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(first.numpy(), second.numpy())
    assert pairs.tolist() == [[m.queryIdx, m.trainIdx] for m in theirs]
    torch.testing.assert_close(distances, torch.tensor([m.distance for m in theirs]), atol=1e-4, rtol=0)


def test_ratio_test_is_opencvs_knn():
    first, second = some(40, 2), some(50, 3)
    pairs, _ = match_descriptors(first, second, ratio=0.9, mutual=False)
    knn = cv2.BFMatcher(cv2.NORM_L2).knnMatch(first.numpy(), second.numpy(), k=2)
    assert pairs.tolist() == [[a.queryIdx, a.trainIdx] for a, b in knn if a.distance < 0.9 * b.distance]


def test_by_hand():
    first, second = torch.tensor([[0.0], [10.0], [11.0]]), torch.tensor([[1.0], [10.5]])
    assert match_descriptors(first, second, mutual=False)[0].tolist() == [[0, 0], [1, 1], [2, 1]]
    assert match_descriptors(first, second)[0].tolist() == [[0, 0], [1, 1]]
    assert match_descriptors(first, second, max_distance=0.7)[0].tolist() == [[1, 1]]


def test_permuted_descriptors_find_themselves():
    first = some(25, 4)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(0))
    pairs, distances = match_descriptors(first, first[order], ratio=0.8)
    assert torch.equal(order[pairs[:, 1]], torch.arange(25))
    assert float(distances.max()) < 1e-3


@pytest.mark.unchecked
def test_empty_and_bad_input():
    assert match_descriptors(torch.zeros(0, 8), torch.zeros(3, 8))[0].shape == (0, 2)
    assert match_descriptors(torch.zeros(1, 8), torch.zeros(1, 8), ratio=0.8)[0].tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="n x d and m x d"):
        match_descriptors(torch.zeros(2, 8), torch.zeros(3, 7))
    with pytest.raises(ValueError, match="ratio"):
        match_descriptors(torch.zeros(2, 8), torch.zeros(3, 8), ratio=0.0)
