"""Anchors and who answers for what: torchvision's AnchorGenerator and Matcher, bit for bit."""

import pytest
import torch

import oracles
from oculi.ops.anchors import BACKGROUND, BETWEEN, cell_anchors, grid_anchors, match
from oculi.ops.boxes import box_iou


def test_anchors_equal_torchvisions_exactly():
    oracles.torchvision()
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList

    sizes, ratios = ((8, 12), (20, 30), (64, 100)), (0.5, 1.0, 2.0)
    generator = AnchorGenerator(sizes, (ratios,) * 3)
    maps = [torch.zeros(1, 1, 12, 16), torch.zeros(1, 1, 6, 8), torch.zeros(1, 1, 3, 4)]
    expected = generator(ImageList(torch.zeros(1, 3, 48, 64), [(48, 64)]), maps)[0]
    ours = [grid_anchors(cell_anchors(s, ratios), *m.shape[-2:], 48 // m.shape[-2]) for s, m in zip(sizes, maps)]
    assert torch.equal(torch.cat(ours), expected)


def test_the_grid_has_every_cell_and_the_ratio_is_height_over_width():
    cells = cell_anchors([8, 16], [0.5, 1, 2])
    grid = grid_anchors(cells, 3, 4, 8)
    assert grid.shape == (72, 4)
    assert torch.equal(grid[:6], cells)
    assert torch.equal(grid[6:12] - cells, torch.tensor([8.0, 0, 8, 0]).expand(6, 4))
    sides = cells[:, 2:] - cells[:, :2]
    assert (sides[:2, 1] < sides[:2, 0]).all()
    assert (sides[4:, 1] > sides[4:, 0]).all()


@pytest.mark.parametrize("rescue", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_matches_equal_torchvisions(rescue, seed):
    oracles.torchvision()
    from torchvision.models.detection._utils import Matcher

    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(66, 2, generator=g) * 20
    boxes = torch.cat([corner, corner + 2 + torch.rand(66, 2, generator=g) * 15], 1)
    overlaps = box_iou(boxes[:6], boxes[6:])
    ours = match(overlaps, 0.7, 0.3, rescue)
    assert torch.equal(ours, Matcher(0.7, 0.3, allow_low_quality_matches=rescue)(overlaps.clone()))
    absent = torch.cat([overlaps, torch.full((2, 60), -1.0)])
    assert torch.equal(match(absent, 0.7, 0.3, rescue), ours)


def test_worked_matches():
    overlaps = torch.tensor([[0.8, 0.5, 0.1, 0.2], [0.1, 0.0, 0.2, 0.25]])
    assert match(overlaps, 0.7, 0.3).tolist() == [0, BETWEEN, BACKGROUND, BACKGROUND]
    assert match(overlaps, 0.7, 0.3, rescue=True).tolist() == [0, BETWEEN, BACKGROUND, 1]
    assert match(torch.full((1, 3), -1.0), 0.5, 0.5, rescue=True).tolist() == [BACKGROUND] * 3


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="background"):
        match(torch.zeros(1, 1), 0.3, 0.7)
    with pytest.raises(ValueError, match="sizes"):
        cell_anchors([0], [1.0])
