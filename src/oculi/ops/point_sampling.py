r"""Masks judged at points instead of everywhere, which costs a fraction of the memory.

A map's value at a point (x, y) in [0, 1] x [0, 1] of the picture is interpolated bilinearly between pixel centres. To
compare predictions with objects, uniformly random points shared by all pairs do; to learn, points are worth most where
the prediction is least sure, its logit near 0:

    draw k N points uniformly, keep the s N of smallest |logit|, add (1 - s) N uniform ones        k = 3, s = 0.75

Kirillov, Wu, He, Girshick: PointRend, 2019, arXiv:1912.08193. Cheng et al.: Masked-attention Mask Transformer, 2021,
arXiv:2112.01527.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

OVERSAMPLE, IMPORTANT = 3.0, 0.75


def sample_at(maps: Float[Tensor, "b c h w"], points: Float[Tensor, "b n 2"]) -> Float[Tensor, "b c n"]:
    """The maps' values at points x, y in [0, 1], 0 beyond the border.

    >>> sample_at(torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[0.25, 0.5], [0.5, 0.5]]]))
    tensor([[[0.0000, 0.5000]]])
    """
    return F.grid_sample(maps, 2 * points[:, :, None] - 1, align_corners=False)[..., 0]


def uncertain_points(logits: Float[Tensor, "n h w"], count: int) -> Float[Tensor, "n count 2"]:
    """For each mask, points of which three quarters lie where it is least sure, in order of doubt, the rest anywhere."""
    if count < 1:
        raise ValueError(f"count: expected at least one point, got {count}")
    with torch.no_grad():
        important = int(IMPORTANT * count)
        points = torch.rand(len(logits), int(OVERSAMPLE * count), 2, device=logits.device)
        doubt = -sample_at(logits[:, None], points)[:, 0].abs()
        chosen = doubt.topk(important, 1).indices
        points = points.gather(1, chosen[..., None].expand(-1, -1, 2))
        rest = torch.rand(len(logits), count - important, 2, device=logits.device)
        return torch.cat([points, rest], 1)
