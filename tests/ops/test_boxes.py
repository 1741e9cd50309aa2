import torch

from oculi.ops.anchors import cell_anchors, grid_anchors
from oculi.ops.boxes import decode, encode
from oculi.ops.nms import nms


def test_round_trip():
    a = torch.tensor([[0.0, 0, 10, 20]])
    b = torch.tensor([[3.0, 1, 9, 12]])
    assert torch.allclose(decode(encode(b, a), a), b, atol=1e-5)
    assert encode(a, a).abs().max() == 0


def test_nms_drops_the_weaker_twin():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    assert nms(boxes, torch.tensor([0.5, 0.9, 0.7]), 0.5).tolist() == [1, 2]


def test_grid_has_every_cell():
    assert grid_anchors(cell_anchors([8, 16], [0.5, 1, 2]), 3, 4, 8).shape == (72, 4)
