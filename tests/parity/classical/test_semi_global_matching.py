"""Semi-global matching: a scalar recursion on random costs, census words by hand, both pictures' disparities."""

import numpy as np
import pytest
import torch

from oculi.classical.semi_global_matching import (
    aggregate,
    best_disparities,
    bit_count,
    block_cost,
    census,
    census_cost,
)

EIGHT = [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]


def recursion(cost: np.ndarray, small: int, large: int, paths: int) -> np.ndarray:
    """S of one picture (d, h, w), one number at a time."""
    disparities, height, width = cost.shape
    total = np.zeros_like(cost)
    for dy, dx in EIGHT[:paths]:
        path = np.zeros_like(cost)
        for y in range(height) if dy >= 0 else range(height - 1, -1, -1):
            for x in range(width) if dx >= 0 else range(width - 1, -1, -1):
                from_y, from_x = y - dy, x - dx
                if not (0 <= from_y < height and 0 <= from_x < width):
                    path[:, y, x] = cost[:, y, x]
                    continue
                before = path[:, from_y, from_x]
                for d in range(disparities):
                    choices = [before[d], before.min() + large]
                    choices += [before[k] + small for k in (d - 1, d + 1) if 0 <= k < disparities]
                    path[d, y, x] = cost[d, y, x] + min(choices) - before.min()
        total += path
    return total


@pytest.mark.parametrize("paths", [4, 8])
@pytest.mark.parametrize(("small", "large"), [(3, 11), (0, 0), (5, 5), (9, 60)])
def test_paths_equal_the_scalar_recursion_exactly(paths, small, large):
    generator = torch.Generator().manual_seed(paths + large)
    cost = torch.randint(0, 25, (2, 5, 6, 7), generator=generator, dtype=torch.int16)
    found = aggregate(cost, small, large, paths)
    for one, expected in zip(found, cost, strict=True):
        np.testing.assert_array_equal(one.numpy(), recursion(expected.numpy(), small, large, paths))


def test_census_says_who_is_darker():
    picture = torch.tensor([[1.0, 9.0, 2.0], [8.0, 5.0, 4.0], [5.0, 6.0, 0.0]])[None, None]
    word = int(census(picture, 1)[0, 1, 1])
    assert [word >> k & 1 for k in range(8)] == [1, 0, 1, 0, 1, 0, 0, 1]


def test_census_does_not_see_gain_and_exposure():
    picture = torch.rand(1, 1, 12, 13, generator=torch.Generator().manual_seed(0))
    assert torch.equal(census(picture), census(0.5 * picture + 0.2))


def test_bits_are_counted():
    words = torch.randint(0, 1 << 24, (1000,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    assert bit_count(words.clone()).tolist() == [int(w).bit_count() for w in words.tolist()]


def test_census_cost_is_zero_at_the_shift_and_the_edges_outside():
    wide = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    left, right = wide[..., :36], wide[..., 3:39]  # right(x - 3) = left(x)
    cost = census_cost(left, right, 6)
    assert int(cost[0, 3, 2:-2, 5:-2].max()) == 0
    assert float(cost[0, [1, 2, 4, 5], 2:-2, 7:-2].float().mean()) > 8
    assert all(torch.equal(cost[0, d, :, x], cost[0, x, :, x]) for d in range(6) for x in range(d))


def test_block_cost_is_the_sum_of_differences():
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.rand(1, 1, 16, 20, generator=generator) * 0.1 for _ in range(2))
    cost = block_cost(left, right, 4, window=5)
    expected = sum(
        float((255 * (left[0, 0, y, x] - right[0, 0, y, x - 2])).abs()) for y in range(5, 10) for x in range(8, 13)
    )
    assert abs(float(cost[0, 2, 7, 10]) - expected) <= 1


def test_best_disparities_of_both_pictures():
    generator = torch.Generator().manual_seed(0)
    total = torch.randperm(5 * 4 * 9, generator=generator).to(torch.int16).view(1, 5, 4, 9)
    left, _, right = best_disparities(total)
    assert torch.equal(left.round().long(), total.argmin(1))
    for y in range(4):
        for x in range(9):
            choices = [int(total[0, d, y, x + d]) for d in range(5) if x + d < 9]
            assert int(right[0, y, x]) == int(np.argmin(choices))


def test_the_fraction_is_the_parabolas_lowest_place():
    d = torch.arange(9.0)
    total = (100 * (d - 4.3).square()).round().to(torch.int16).view(1, 9, 1, 1).expand(1, 9, 2, 3).contiguous()
    left, bent, _ = best_disparities(total)
    assert bool(bent.all())
    torch.testing.assert_close(left, torch.full((1, 2, 3), 4.3), atol=0.01, rtol=0)


@pytest.mark.unchecked
def test_bad_input():
    cost = torch.zeros(1, 4, 5, 6, dtype=torch.int16)
    with pytest.raises(ValueError, match="paths"):
        aggregate(cost, 1, 2, 5)
    with pytest.raises(ValueError, match="small, large"):
        aggregate(cost, 3, 2)
    with pytest.raises(ValueError, match="cost"):
        aggregate(cost + 20000, 1, 2)
    with pytest.raises(ValueError, match="radius"):
        census(torch.zeros(1, 1, 5, 5), 3)
    with pytest.raises(ValueError, match="window"):
        block_cost(torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 5, 5), 3, window=4)
