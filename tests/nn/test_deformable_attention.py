"""Deformable attention: the fast way against the readable one and transformers', its beginning, its reference points."""

import math

import pytest
import torch
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

from agreement import close
from oculi.nn.deformable_attention import (
    DeformableAttention,
    DeformableEncoderLayer,
    attend,
    cell_centres,
    gathered_attend,
)

SIZES = [(2, 3), (4, 5)]


def inputs(queries=7, heads=2, points=3):
    g = torch.Generator().manual_seed(0)
    values = torch.randn(2, 26, heads, 4, generator=g)
    where = torch.rand(2, queries, heads, 2, points, 2, generator=g) * 1.4 - 0.2  # some beyond the border
    weights = torch.rand(2, queries, heads, 2, points, generator=g)
    return values, where, weights


def test_both_ways_are_transformers():
    values, where, weights = inputs()
    values.requires_grad_()
    where.requires_grad_()
    expected = multi_scale_deformable_attention(values, SIZES, where, weights)
    close(attend(values, SIZES, where, weights), expected)
    close(gathered_attend(values, SIZES, where, weights), expected)
    slope = torch.autograd.grad(expected.square().sum(), (values, where))
    for way in (attend, gathered_attend):
        mine = torch.autograd.grad(way(values, SIZES, where, weights).square().sum(), (values, where))
        for one, other in zip(mine, slope, strict=True):
            close(one, other, 1e-4)


def test_heads_look_in_different_directions_at_first():
    layer = DeformableAttention(8, 4, 1, 2)
    offsets = layer.offsets.bias.detach().reshape(4, 1, 2, 2)
    assert torch.allclose(offsets[:, 0, 0], torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]), atol=1e-6)
    assert torch.allclose(offsets[:, 0, 1], 2 * offsets[:, 0, 0])
    assert float(layer.weights.weight.detach().abs().max()) == 0


def test_points_and_boxes_refer_to_the_same_places():
    """A box whose half, shared by the points, is one pixel moves by pixels, as a point does."""
    torch.manual_seed(0)
    layer, size = DeformableAttention(8, 2, 1, 4), [(4, 4)]
    query, picture = torch.randn(1, 3, 8), torch.randn(1, 16, 8)
    point = torch.rand(1, 3, 2)
    box = torch.cat([point, torch.full((1, 3, 2), 2 * 4 / 4)], -1)
    close(layer(query, box, picture, size), layer(query, point, picture, size))


def test_encoder_layer_and_centres():
    torch.manual_seed(0)
    layer = DeformableEncoderLayer(8, 2, 12, 2)
    x = torch.randn(2, 26, 8)
    assert layer(x, torch.zeros(1, 26, 8), cell_centres(SIZES), SIZES).shape == x.shape
    centres = cell_centres(SIZES)[0]
    assert centres[0].tolist() == pytest.approx([1 / 6, 1 / 4])
    assert centres[-1].tolist() == pytest.approx([0.9, 0.875])
    assert math.prod(centres.shape) == 52


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="heads"):
        DeformableAttention(8, 3, 1)
