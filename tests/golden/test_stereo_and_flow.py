"""Worked numbers of stereo and optical flow."""

from __future__ import annotations

import torch

from oculi.classical.horn_schunck import relax
from oculi.classical.semi_global_matching import aggregate
from oculi.geometry.stereo import depth_from_disparity


def test_depth_of_25_pixels():
    depth, valid = depth_from_disparity(torch.tensor([[25.0, 0.0]]), 500.0, 0.1)
    assert depth.tolist() == [[2.0, 0.0]]
    assert valid.tolist() == [[True, False]]


def test_two_pixels_of_semi_global_matching():
    """Costs (4, 0) and (1, 3), P1 = 1, P2 = 5. Left to right (4, 0), then 1 + min(4, 0 + 1) and 3 + 0; back (1, 3), then
    4 + 0 and 0 + min(2, 0 + 1). Each path from above or below, or across, begins anew: 6 of them are the cost itself."""
    cost = torch.tensor([[4, 1], [0, 3]], dtype=torch.int16).view(1, 2, 1, 2)
    expected = [[6 * 4 + 4 + 4, 6 * 1 + 2 + 1], [6 * 0 + 0 + 1, 6 * 3 + 3 + 3]]
    assert aggregate(cost, 1, 5)[0, :, 0].tolist() == expected


def test_one_update_of_horn_and_schunck():
    """Ix = 1, Iy = 0, It = -1, a = 1, from no motion: u = 0 - 1 (0 - 1) / (1 + 1)."""
    gradient = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
    flow = relax(gradient, torch.full((1, 1, 3, 3), -1.0), torch.zeros(1, 2, 3, 3), 1.0, 1)
    assert flow[0, :, 1, 1].tolist() == [0.5, 0.0]
