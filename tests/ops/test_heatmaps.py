"""Keypoints and heatmaps: there and back, and torchvision's own functions."""

import pytest
import torch

import oracles
from oculi.ops import heatmaps
from oculi.ops.heatmaps import heatmap_cells, heatmap_peaks


def regions(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=g) * 30
    sides = torch.cat([torch.rand(n - 1, 2, generator=g) * 28 + 1, torch.full((1, 2), 0.4)])
    return torch.cat([corner, corner + sides], 1)


def test_cells_and_peaks_equal_torchvisions(monkeypatch):
    oracles.torchvision()
    from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, keypoints_to_heatmap

    torch.manual_seed(0)
    boxes = regions(8)
    points = torch.cat([torch.rand(8, 5, 2) * 60, torch.randint(0, 3, (8, 5, 1))], -1)
    points[:, 0, :2] = boxes[:, 2:]
    points[:, 0, 2] = 2
    expected, valid = keypoints_to_heatmap(points, boxes, 56)
    cells, inside = heatmap_cells(points, boxes, 56)
    assert torch.equal(cells, expected)
    assert torch.equal(inside, valid.bool())
    assert inside.any()
    assert not inside.all()
    maps = torch.randn(8, 5, 56, 56)
    there, _ = heatmaps_to_keypoints(maps, boxes)
    torch.testing.assert_close(heatmap_peaks(maps, boxes, 60, 60), there[..., :2], rtol=1e-5, atol=1e-4)
    monkeypatch.setattr(heatmaps, "MOST_CELLS", 60 * 60 * 5 * 3)  # three regions at once
    torch.testing.assert_close(heatmap_peaks(maps, boxes, 60, 60), there[..., :2], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_there_and_back_within_a_pixel(seed):
    boxes = regions(7, seed)[:-1]
    share = torch.rand(6, 4, 2, generator=torch.Generator().manual_seed(seed)) * 0.9 + 0.05
    points = boxes[:, None, :2] + share * (boxes[:, 2:] - boxes[:, :2])[:, None]
    cells, inside = heatmap_cells(torch.cat([points, torch.ones(6, 4, 1)], -1), boxes, 56)
    assert inside.all()
    y, x = torch.div(cells, 56, rounding_mode="floor"), cells % 56
    grid = torch.arange(56)
    bump = (-((grid[:, None] - y[..., None, None]) ** 2 + (grid - x[..., None, None]) ** 2) / 200).exp()
    assert (heatmap_peaks(bump, boxes, 64, 64) - points).abs().max() < 1
