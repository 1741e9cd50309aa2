r"""Cross-attention: queries from one sequence, keys and values from another, places added to what is compared alone.

    Z = softmax((X + P) W^Q ((Y + R) W^K)ᵀ / sqrt(d_k) + mask) Y W^V          Z W^O at the end

X: what asks (decoder, object queries), with places P; Y: what is asked (encoder, a map of features), with places R. The
values carry no place. With Y = X it is self-attention. `mask` limits who may be looked at; masked attention (Mask2Former)
lets each query look at the foreground of its own predicted mask:

    M[n, y] = 0 where query n's mask is at least one half at place y, -inf elsewhere;   0 everywhere for an empty mask

Vaswani et al.: Attention Is All You Need, 2017, arXiv:1706.03762. Cheng et al.: Masked-attention Mask Transformer for
Universal Image Segmentation, 2021, arXiv:2112.01527.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


class CrossAttention(nn.Module):
    """h heads of width d / h. Query, key and value are given apart, each with the places it should carry."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads: expected a divisor of width {width}, got {heads}")
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def split(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b heads n e"]:
        """One slice of the features per head."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(
        self,
        query: Float[Tensor, "b n d"],
        key: Float[Tensor, "b m d"],
        value: Float[Tensor, "b m d"],
        mask: Bool[Tensor, "#b #heads n m"] | Float[Tensor, "#b #heads n m"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """mask: True = may look, or a number to add to the scores."""
        mixed = F.scaled_dot_product_attention(
            self.split(self.query(query)), self.split(self.key(key)), self.split(self.value(value)), mask
        )
        return self.out(mixed.transpose(1, 2).flatten(2))

    def weights(
        self, query: Float[Tensor, "b n d"], key: Float[Tensor, "b m d"], mask: Tensor | None = None
    ) -> Float[Tensor, "b heads n m"]:
        """How much each query looks at each key; to be seen, not used: `forward` never holds them."""
        one, other = self.split(self.query(query)), self.split(self.key(key))
        scores = one @ other.transpose(-1, -2) / one.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        return scores.softmax(-1)


def foreground(logits: Float[Tensor, "b n h w"]) -> Bool[Tensor, "b 1 n places"]:
    """Where each query may look on a map on which its mask has these logits: everywhere if the mask is empty.

    >>> foreground(torch.tensor([[[[3.0, -3.0]], [[-1.0, -2.0]]]])).tolist()
    [[[[True, False], [True, True]]]]
    """
    inside = logits.detach().flatten(2) >= 0
    return (inside | ~inside.any(-1, keepdim=True))[:, None]
