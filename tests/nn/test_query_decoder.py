"""Cross-attention and its masked kind against torch's, layers of the decoder, places of a map, the set's class loss."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from agreement import close
from oculi.nn.cross_attention import CrossAttention, foreground
from oculi.nn.detection import objects_of, padded
from oculi.nn.query_decoder import DecoderLayer, EncoderLayer, FeedForward, perceptron, sine_positions
from oculi.nn.set_prediction import set_class_loss
from oculi.ops.assignment import Matching
from oculi.types import Batch


def torchs(ours, width, heads):
    theirs = nn.MultiheadAttention(width, heads, batch_first=True)
    three = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.data.copy_(torch.cat([layer.weight for layer in three]))
    theirs.in_proj_bias.data.copy_(torch.cat([layer.bias for layer in three]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    return theirs


def test_cross_attention_is_torchs():
    torch.manual_seed(0)
    ours = CrossAttention(8, 2)
    theirs = torchs(ours, 8, 2)
    query, key, value = torch.randn(2, 5, 8), torch.randn(2, 7, 8), torch.randn(2, 7, 8)
    expected, shares = theirs(query, key, value, average_attn_weights=False)
    close(ours(query, key, value), expected)
    close(ours.weights(query, key), shares)
    may = torch.rand(2, 2, 5, 7) < 0.6
    may[..., 0] = True
    expected, shares = theirs(query, key, value, attn_mask=~may.flatten(0, 1), average_attn_weights=False)
    close(ours(query, key, value, may), expected)
    close(ours.weights(query, key, may), shares)
    added = torch.zeros(may.shape).masked_fill(~may, -math.inf)
    close(ours(query, key, value, added), expected)
    close(ours.weights(query, key, added), shares)


def test_masked_attention_looks_at_the_foreground_alone():
    torch.manual_seed(0)
    attention, logits = CrossAttention(8, 2), torch.randn(2, 4, 6, 6)
    logits[0, 1] = -5  # an empty mask
    small = F.interpolate(logits, size=(3, 3), mode="bilinear")
    may = foreground(small)
    weights = attention.weights(torch.randn(2, 4, 8), torch.randn(2, 9, 8), may)
    assert (weights[~may.expand_as(weights)] == 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 4))
    assert may[0, 0, 1].all(), "an empty mask hides nothing"
    assert not may.all()
    picture = torch.randn(2, 9, 8)
    assert torch.isfinite(attention(torch.randn(2, 4, 8), picture, picture, may)).all()
    assert torch.equal(may[1, 0], small[1].flatten(1) >= 0)


def test_decoder_layer_is_torchs():
    torch.manual_seed(0)
    ours = DecoderLayer(8, 2, 12).eval()
    theirs = nn.TransformerDecoderLayer(8, 2, 12, batch_first=True).eval()
    theirs.self_attn, theirs.multihead_attn = torchs(ours.among, 8, 2), torchs(ours.cross, 8, 2)
    theirs.linear1, theirs.linear2 = ours.feed_forward.first, ours.feed_forward.second
    theirs.norm1, theirs.norm2, theirs.norm3 = ours.among_norm, ours.cross_norm, ours.feed_forward.norm
    x, picture, none = torch.randn(2, 5, 8), torch.randn(2, 7, 8), torch.zeros(1, 5, 8)
    close(ours(x, none, picture, picture), theirs(x, picture))


def test_encoder_layer_is_torchs():
    torch.manual_seed(0)
    for smooth, activation in ((False, "relu"), (True, "gelu")):
        ours = EncoderLayer(8, 2, 12, smooth=smooth).eval()
        theirs = nn.TransformerEncoderLayer(8, 2, 12, activation=activation, batch_first=True)
        theirs.self_attn = torchs(ours.attention, 8, 2)
        theirs.linear1, theirs.linear2 = ours.feed_forward.first, ours.feed_forward.second
        theirs.norm1, theirs.norm2 = ours.norm, ours.feed_forward.norm
        x = torch.randn(2, 7, 8)
        close(ours(x, torch.zeros(1, 7, 8)), theirs.eval()(x))


def test_order_of_the_two_attentions():
    torch.manual_seed(0)
    x, own, picture = torch.randn(1, 3, 8), torch.randn(1, 3, 8), torch.randn(1, 6, 8)
    layer = DecoderLayer(8, 2, 12, cross_first=True)
    crossed = layer.cross_norm(x + layer.cross(x + own, picture, picture))
    close(layer(x, own, picture, picture), layer.feed_forward(layer.look_around(crossed, own)))
    order = torch.tensor([2, 0, 1])
    close(layer(x[:, order], own[:, order], picture, picture), layer(x, own, picture, picture)[:, order])


def test_places_are_sines_of_rows_then_columns():
    places = sine_positions(3, 2, 8)
    assert places.shape == (6, 8)
    angle = 2 * math.pi * 2 / 3
    expected = [math.sin(angle), math.cos(angle), math.sin(angle / 100), math.cos(angle / 100)]
    torch.testing.assert_close(places[2, :4], torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert torch.equal(places[0, :4], places[1, :4])
    assert torch.equal(places[0, 4:], places[2, 4:])


def test_only_matched_queries_have_a_class():
    logits = torch.randn(2, 3, 4)
    labels = torch.tensor([[1, 0], [2, 0]])
    found = Matching(torch.tensor([0, 0, 1]), torch.tensor([2, 0, 1]), torch.tensor([0, 1, 0]))
    wanted = torch.tensor([[0, 3, 1], [3, 2, 3]])
    weight = torch.tensor([1, 1, 1, 0.1])
    each = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
    share = weight[wanted.flatten()]
    torch.testing.assert_close(set_class_loss(logits, labels, found, 0.1), (each * share).sum() / share.sum())


def test_padding_and_crowds():
    labels = [torch.tensor([3, 4]), torch.tensor([], dtype=torch.int64)]
    assert padded(labels).tolist() == [[3, 4, 0], [0, 0, 0]]
    boxes = [torch.ones(2, 4), torch.ones(0, 4)]
    batch = Batch(image=torch.zeros(2, 1, 4, 4), boxes=boxes, labels=labels)
    assert objects_of(batch).real.tolist() == [[True, True, False], [False, False, False]]
    crowd = [torch.tensor([True, False]), torch.tensor([], dtype=torch.bool)]
    assert objects_of(replace(batch, crowd=crowd)).real.tolist() == [[False, True, False], [False, False, False]]


def test_perceptron_has_relu_between_its_layers():
    kinds = [type(layer).__name__ for layer in perceptron(2, 3, 4)]
    assert kinds == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert FeedForward(4, 8)(torch.randn(1, 2, 4)).shape == (1, 2, 4)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="heads"):
        CrossAttention(8, 3)
    with pytest.raises(ValueError, match="channels"):
        sine_positions(2, 2, 6)
