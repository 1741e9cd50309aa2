r"""Contrastive learning: what belongs together shall be close, what does not shall be far.

    cos(x, y) = x.y / (||x|| ||y||)
    NT-Xent     l_ij = -log exp(cos(z_i, z_j) / tau) / Σ_{k != i} exp(cos(z_i, z_k) / tau)

For N pictures in two views each, every view has one positive and 2(N - 1) negatives; a lone picture costs 0.
Chen, Kornblith, Norouzi, Hinton: SimCLR, 2020, arXiv:2002.05709.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def cosine_similarity(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Cosines of all pairs, in [-1, 1]; a zero vector has cosine 0 with everything."""
    return F.normalize(x, dim=-1, eps=1e-12) @ F.normalize(y, dim=-1, eps=1e-12).transpose(-1, -2)


def nt_xent_loss(
    first: Float[Tensor, "n d"], second: Float[Tensor, "m d"], temperature: float = 0.5
) -> Float[Tensor, ""]:
    """Mean of l_ij over both directions of the N pairs (first[i], second[i])."""
    if first.shape != second.shape:
        raise ValueError(f"second: expected the shape of first {tuple(first.shape)}, got {tuple(second.shape)}")
    if temperature <= 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature}")
    views = torch.cat([first, second])
    similarity = cosine_similarity(views, views) / temperature
    similarity = similarity.masked_fill(torch.eye(len(views), dtype=torch.bool, device=views.device), -math.inf)
    positive = torch.arange(len(views), device=views.device).roll(len(first))
    return F.cross_entropy(similarity, positive)
