r"""What losses of set prediction share: the class of every query.

Once queries are matched to objects, each matched query should say its object's class and all others "no object", the
last class. Since most are others, their cross-entropy counts `no_object` times as much, and the mean is the weighted one:

    L = sum_i w_i CE(logits_i, class_i) / sum_i w_i          w_i = 1 if i is matched, no_object otherwise

Carion et al.: End-to-End Object Detection with Transformers, 2020, arXiv:2005.12872.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from oculi.ops.assignment import Matching


def set_class_loss(
    logits: Float[Tensor, "b queries scores"], labels: Int[Tensor, "b truths"], found: Matching, no_object: float
) -> Float[Tensor, ""]:
    """The weighted cross-entropy of all queries."""
    nothing = logits.shape[-1] - 1
    wanted = torch.full(logits.shape[:2], nothing, device=logits.device)
    wanted[found.picture, found.query] = labels[found.picture, found.truth]
    weight = logits.new_ones(nothing + 1)
    weight[nothing] = no_object
    return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), weight)
