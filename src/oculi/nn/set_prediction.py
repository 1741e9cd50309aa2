r"""What losses of set prediction share: truths of different number padded to one, and the class of every query.

Once queries are matched to objects, each matched query should say its object's class and all others "no object", the
last class. Since most are others, their cross-entropy counts `no_object` times as much, and the mean is the weighted one:

    L = sum_i w_i CE(logits_i, class_i) / sum_i w_i          w_i = 1 if i is matched, no_object otherwise

Carion et al.: End-to-End Object Detection with Transformers, 2020, arXiv:2005.12872.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from oculi.ops.assignment import Matching


def padded(values: list[Tensor]) -> Shaped[Tensor, "b most ..."]:
    """Lists of different lengths as one tensor, zeros after the last, at least one long."""
    return pad_sequence([torch.cat([v, v.new_zeros(1, *v.shape[1:])]) for v in values], batch_first=True)


def present(labels: list[Tensor], crowd: list[Tensor] | None = None) -> Bool[Tensor, "b most"]:
    """Which rows of `padded` are objects to be learned from: no padding and no crowd."""
    return padded([torch.ones_like(k, dtype=torch.bool) for k in labels] if crowd is None else [~c for c in crowd])


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
