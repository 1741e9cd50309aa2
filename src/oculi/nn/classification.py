"""What every classifier shares: from logits to loss and to answers."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from oculi.predictions import Classes
from oculi.types import UNLABELLED, Losses


def classification_loss(
    logits: Float[Tensor, "batch classes"],
    label: Int[Tensor, " batch"] | Float[Tensor, "batch classes"] | None,
    smoothing: float = 0.0,
) -> Losses:
    r"""Cross-entropy with natural logarithm, unlabelled images (-1) left out. Raises ValueError without labels.

    Labels are classes or, where pictures were mixed, distributions q: the loss is then - sum_k q_k ln p_k. Smoothing eps
    learns from (1 - eps) q + eps / K (Szegedy 2015, 1512.00567).
    """
    if label is None:
        raise ValueError("batch.label: a classifier learns from labels, got None")
    return {"cross_entropy": F.cross_entropy(logits, label, ignore_index=UNLABELLED, label_smoothing=smoothing)}


def classification_predictions(logits: Float[Tensor, "batch classes"], names: list[str] | None) -> list[Classes]:
    """One distribution per image."""
    return [Classes(row, names) for row in logits.softmax(-1)]
