r"""Losses of masks: pixel by pixel, or as overlap.

    cross-entropy    - mean over known pixels of ln p_i(y_i)
    Tversky          1 - (TP + s) / (TP + a FP + b FN + s)
                     TP = sum p y,  FP = sum p (1 - y),  FN = sum (1 - p) y,  per class, over the pixels of the batch
    Dice             a = b = 1/2:  1 - 2 |A n B| / (|A| + |B|)
    IoU, Jaccard     a = b = 1:    1 - |A n B| / |A u B|,        D = 2 J / (1 + J)

Cross-entropy's gradient is never longer than sqrt(2) per pixel, divided by the number of pixels, whatever the sizes of
the objects; Dice weighs each object by its area's inverse, so that a single pixel counts as much as a whole picture.
Dice may be had with squares below, sum p^2 + sum y^2 (Milletari 2016). With s = 0 a class without a pixel in the batch
has no overlap to speak of and its loss is 0; with s > 0 it is told not to be said. Pixels of class 255 are left out.

    logits    batch x classes x H x W
    masks     batch x classes x ..., in [0, 1]

Milletari, Navab, Ahmadi: V-Net, 2016, arXiv:1606.04797. Rahman, Wang: Optimizing Intersection-Over-Union, 2016.
Salehi, Erdogmus, Gholipour: Tversky loss function for image segmentation, 2017, arXiv:1706.05721.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from oculi.types import IGNORE, Losses

Criterion: TypeAlias = Literal["cross_entropy", "dice", "iou", "tversky"]
Logits: TypeAlias = Float[Tensor, "b classes h w"]
Maps: TypeAlias = Float[Tensor, "b classes *places"]


def pixel_cross_entropy(logits: Logits, semantic: Int[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """The mean over known pixels; 0 where none is known."""
    target = semantic.long()
    known = (target != IGNORE).sum().clamp_min(1)
    return F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum") / known


def tversky_loss(
    probability: Maps, mask: Maps, false_positive: float = 0.5, false_negative: float = 0.5, smooth: float = 0.0
) -> Float[Tensor, ""]:
    """The mean over classes; the weights are those of pixels said wrongly and of pixels missed."""
    if min(false_positive, false_negative, smooth) < 0:
        got = f"{false_positive}, {false_negative} and {smooth}"
        raise ValueError(f"false_positive, false_negative, smooth: expected 0 or more, got {got}")
    hit, said, true = _sums(probability, mask)
    below = hit + false_positive * (said - hit) + false_negative * (true - hit)
    return _mean_loss(hit + smooth, below + smooth, true, smooth)


def dice_loss(probability: Maps, mask: Maps, smooth: float = 0.0, squared: bool = False) -> Float[Tensor, ""]:
    """One minus the Dice coefficient, the mean over classes; `squared` takes squares in the denominator.

    >>> maps = torch.tensor([[[0.9, 0.1]]]), torch.tensor([[[1.0, 0.0]]])
    >>> round(float(dice_loss(*maps)), 4), round(float(dice_loss(*maps, squared=True)), 4)
    (0.1, 0.011)
    """
    if not squared:
        return tversky_loss(probability, mask, 0.5, 0.5, smooth)
    hit, _, true = _sums(probability, mask)
    below = (_per_class(probability.square()) + _per_class(mask.square())) / 2
    return _mean_loss(hit + smooth, below + smooth, true, smooth)


def iou_loss(probability: Maps, mask: Maps, smooth: float = 0.0) -> Float[Tensor, ""]:
    """One minus the soft intersection over union, the mean over classes."""
    return tversky_loss(probability, mask, 1.0, 1.0, smooth)


def maps_of(logits: Logits, semantic: Int[Tensor, "b h w"]) -> tuple[Logits, Logits]:
    """Probabilities, and a mask of each class; both are 0 where the class is not known."""
    known = semantic != IGNORE
    mask = F.one_hot(semantic.long().masked_fill(~known, 0), logits.shape[1]).movedim(-1, 1)
    return logits.softmax(1) * known[:, None], (mask * known[:, None]).to(logits)


def segmentation_loss(
    logits: Logits, semantic: Int[Tensor, "b h w"] | None, criterion: Criterion = "cross_entropy"
) -> Losses:
    """The loss of a segmenter, by name. Tversky's weighs a missed pixel 0.7, a wrong one 0.3, as its paper found best."""
    if semantic is None:
        raise ValueError("batch.semantic: expected a class per pixel, got None")
    if criterion == "cross_entropy":
        return {criterion: pixel_cross_entropy(logits, semantic)}
    probability, mask = maps_of(logits, semantic)
    if criterion == "tversky":
        return {criterion: tversky_loss(probability, mask, 0.3, 0.7)}
    losses = {"dice": dice_loss, "iou": iou_loss}
    if criterion not in losses:
        raise ValueError(f"criterion: expected cross_entropy, dice, iou or tversky, got {criterion!r}")
    return {criterion: losses[criterion](probability, mask)}


def _per_class(maps: Tensor) -> Float[Tensor, " classes"]:
    return maps.transpose(0, 1).flatten(1).sum(1)


def _sums(probability: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if probability.shape != mask.shape:
        wanted = tuple(probability.shape)
        raise ValueError(f"mask: expected the shape of probability {wanted}, got {tuple(mask.shape)}")
    return _per_class(probability * mask), _per_class(probability), _per_class(mask)


def _mean_loss(above: Tensor, below: Tensor, true: Tensor, smooth: float) -> Float[Tensor, ""]:
    loss = 1 - above / below.clamp_min(1e-7)
    return (loss if smooth else torch.where(true > 0, loss, 0.0)).mean()
