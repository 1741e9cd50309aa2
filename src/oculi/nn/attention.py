r"""Attention: every query compares itself with every key and takes the mixture of values that the softmax gives.

    Z = softmax(Q Kᵀ / sqrt(d_k) + mask) V          Q = X W^Q, K = Y W^K, V = Y W^V

Self-attention has Y = X, cross-attention another sequence. Every position also attends to itself. Without positions the
layer is permutation equivariant (not invariant): permuted inputs give outputs permuted in the same way.

Vaswani et al.: Attention Is All You Need, 2017, arXiv:1706.03762; Ba, Kiros, Hinton: Layer Normalization, 2016,
arXiv:1607.06450.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


def attend(
    query: Float[Tensor, "*b n d"],
    key: Float[Tensor, "*b m d"],
    value: Float[Tensor, "*b m e"],
    mask: Bool[Tensor, "*#b n m"] | Float[Tensor, "*#b n m"] | None = None,
) -> Float[Tensor, "*b n e"]:
    """The readable reference of `F.scaled_dot_product_attention`; mask: True = may look, or a number to add."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ value


def layer_norm(
    x: Float[Tensor, "*b d"],
    weight: Float[Tensor, " d"] | None = None,
    bias: Float[Tensor, " d"] | None = None,
    eps: float = 1e-5,
) -> Float[Tensor, "*b d"]:
    """(x - mean) / sqrt(variance + eps) over each sample's features (biased variance); see nn.LayerNorm."""
    centred = x - x.mean(-1, keepdim=True)
    normal = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    normal = normal if weight is None else normal * weight
    return normal if bias is None else normal + bias


def sinusoidal_positions(length: int, width: int) -> Float[Tensor, "length width"]:
    """P[p, 2i] = sin(p / 10000^(2i / width)), P[p, 2i + 1] = cos(the same); positions count from 0."""
    if width % 2:
        raise ValueError(f"width: expected an even number of features, got {width}")
    frequency = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1).float()


class MultiHeadAttention(nn.Module):
    """h heads of width d / h; their outputs are concatenated and multiplied by W^O."""

    def __init__(self, width: int, heads: int, context_width: int | None = None):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads: expected a divisor of width {width}, got {heads}")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(context_width or width, 2 * width)
        self.out = nn.Linear(width, width)
        for layer in (self.query, self.key_value, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        context: Float[Tensor, "b m e"] | None = None,
        mask: Tensor | None = None,
    ) -> Float[Tensor, "b n d"]:
        """mask: as in `attend`, broadcast to `b heads n m`. Self-attention where `context` is None."""
        source = x if context is None else context
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(source).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Self-attention and a position-wise feed-forward net, each with a residual and a layer norm.

    pre-norm (ViT)          x = x + Attention(LN(x));  x = x + MLP(LN(x))
    post-norm (the paper)   x = LN(x + Attention(x));  x = LN(x + MLP(x))
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int | None = None,
        pre_norm: bool = True,
        dropout: float = 0.0,
        eps: float = 1e-6,
    ):
        super().__init__()
        hidden = hidden or 4 * width
        self.pre_norm = pre_norm
        self.norms = nn.ModuleList([nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)])
        self.attention = MultiHeadAttention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )  # fmt: skip
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b n d"], mask: Tensor | None = None) -> Float[Tensor, "b n d"]:
        first, second = self.norms
        if self.pre_norm:
            x = x + self.dropout(self.attention(first(x), mask=mask))
            return x + self.dropout(self.mlp(second(x)))
        x = first(x + self.dropout(self.attention(x, mask=mask)))
        return second(x + self.dropout(self.mlp(x)))
