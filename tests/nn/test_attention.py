"""Attention, layer norm and positions against torch's own, worked numbers, and their symmetries."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oculi.nn.attention import MultiHeadAttention, TransformerBlock, attend, layer_norm, sinusoidal_positions


@pytest.mark.parametrize("kind", ["none", "bool", "additive"])
def test_reference_equals_torch(kind):
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 4)
    mask = {"none": None, "bool": torch.rand(2, 1, 5, 7) > 0.3, "additive": torch.randn(2, 1, 5, 7)}[kind]
    torch.testing.assert_close(
        attend(query, key, value, mask), F.scaled_dot_product_attention(query, key, value, mask), rtol=1e-5, atol=1e-6
    )


def test_equal_keys_give_the_mean_of_the_values():
    value = torch.tensor([[1.0], [2.0], [6.0]])
    assert torch.allclose(attend(torch.randn(2, 4), torch.ones(3, 4), value), torch.full((2, 1), 3.0))


def copy_attention(theirs, ours):
    width = ours.query.in_features
    ours.query.load_state_dict({"weight": theirs.in_proj_weight[:width], "bias": theirs.in_proj_bias[:width]})
    ours.key_value.load_state_dict({"weight": theirs.in_proj_weight[width:], "bias": theirs.in_proj_bias[width:]})
    ours.out.load_state_dict(theirs.out_proj.state_dict())


def test_multi_head_attention_equals_torch():
    torch.manual_seed(0)
    theirs, ours = nn.MultiheadAttention(16, 4, batch_first=True), MultiHeadAttention(16, 4)
    nn.init.normal_(theirs.in_proj_bias)
    copy_attention(theirs, ours)
    x, context = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours(x, context), theirs(x, context, context)[0], rtol=1e-5, atol=1e-6)


def test_a_head_of_width_512_with_8_heads_has_64_features():
    attention = MultiHeadAttention(512, 8)
    assert attention.query.out_features // attention.heads == 64
    with pytest.raises(ValueError, match="heads: expected a divisor of width 10"):
        MultiHeadAttention(10, 3)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_block_equals_torch(pre_norm):
    torch.manual_seed(0)
    options = {"dropout": 0.0, "activation": F.gelu, "batch_first": True, "norm_first": pre_norm}
    theirs = nn.TransformerEncoderLayer(16, 4, 32, layer_norm_eps=1e-6, **options)
    ours = TransformerBlock(16, 4, 32, pre_norm)
    copy_attention(theirs.self_attn, ours.attention)
    for mine, other in (
        (ours.mlp[0], theirs.linear1),
        (ours.mlp[3], theirs.linear2),
        (ours.norms[0], theirs.norm1),
        (ours.norms[1], theirs.norm2),
    ):
        nn.init.normal_(other.weight, std=0.3)
        mine.load_state_dict(other.state_dict())
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_self_attention_is_permutation_equivariant_not_invariant():
    torch.manual_seed(0)
    block, x, order = TransformerBlock(8, 2), torch.randn(1, 6, 8), torch.randperm(6)
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(block(x[:, order]), block(x), atol=1e-3)


def test_a_causal_mask_hides_the_future():
    torch.manual_seed(0)
    block, x = TransformerBlock(8, 2), torch.randn(1, 6, 8)
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    changed = x.clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(block(x, mask)[:, :4], block(changed, mask)[:, :4])


def test_layer_norm_equals_torch_and_ignores_scale_and_shift():
    torch.manual_seed(0)
    x, theirs = torch.randn(4, 16), nn.LayerNorm(16)
    nn.init.normal_(theirs.weight), nn.init.normal_(theirs.bias)
    torch.testing.assert_close(layer_norm(x, theirs.weight, theirs.bias), theirs(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer_norm(x), nn.LayerNorm(16, elementwise_affine=False)(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer_norm(3 * x + 7), layer_norm(x), rtol=1e-4, atol=1e-4)


def test_positions_as_worked_by_hand():
    expected = torch.tensor([0.84147, 0.54030, 0.0099998, 0.99995])
    torch.testing.assert_close(sinusoidal_positions(3, 4)[1], expected, rtol=0, atol=1e-5)
    assert sinusoidal_positions(3, 4)[0].tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="width: expected an even number"):
        sinusoidal_positions(3, 5)
