r"""Focal loss: cross-entropy that stops listening to what is already right.

    FL(p_t) = -alpha_t (1 - p_t)^gamma log p_t          p_t = p where the target is 1, 1 - p where it is 0

A hundred thousand easy background anchors (p_t = 0.9) weigh 46 times as much as a hundred hard ones (p_t = 0.1) in
cross-entropy (gamma = 0), and about half as much with gamma = 2. alpha_t is alpha for targets of 1 and 1 - alpha for 0.

Lin, Goyal, Girshick, He, Dollar: Focal Loss for Dense Object Detection, 2017, arXiv:1708.02002.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def focal_loss(
    logits: Float[Tensor, "*n"], targets: Float[Tensor, "*n"], gamma: float = 2.0, alpha: float | None = 0.25
) -> Float[Tensor, "*n"]:
    """The loss of each element, `targets` being from 0 to 1. alpha: None weighs both sides alike.

    >>> import torch
    >>> logit = torch.tensor([0.9]).logit()
    >>> round(float(focal_loss(logit, torch.ones(1), alpha=None)), 8)
    0.00105361
    """
    if gamma < 0:
        raise ValueError(f"gamma: expected 0 or more, got {gamma}")
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected a share from 0 to 1 or None, got {alpha}")
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = logits.sigmoid()
    wrong = p * (1 - targets) + (1 - p) * targets  # 1 - p_t
    loss = cross_entropy * wrong**gamma if gamma else cross_entropy
    return loss if alpha is None else loss * (alpha * targets + (1 - alpha) * (1 - targets))
