r"""Losses that are the overlap itself: of each predicted box with its own object, `x1 y1 x2 y2` in pixels.

    IoU      1 - |A n B| / |A u B|                                        no gradient where the boxes do not meet
    GIoU     IoU's  + (|C| - |A u B|) / |C|                               C: the smallest box round both
    DIoU     IoU's  + d^2 / c^2                                           d: between the centres, c: diagonal of C
    CIoU     DIoU's + a v,   v = 4 / pi^2 (atan w'/h' - atan w/h)^2,   a = v / (1 - IoU + v), held constant

GIoU = 1 - loss lies in (-1, 1]; the further two boxes are apart, the nearer to -1, so that they are pulled together.

Rezatofighi et al.: Generalized Intersection over Union, 2019, arXiv:1902.09630.
Zheng et al.: Distance-IoU Loss, 2019, arXiv:1911.08287.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from oculi.ops.boxes import area

EPSILON = 1e-7


def iou_loss(given: Float[Tensor, "*n 4"], wanted: Float[Tensor, "*n 4"], kind: str = "giou") -> Float[Tensor, "*n"]:
    """The loss of each pair. Raises ValueError for a kind that is none.

    >>> unit = torch.tensor([[0.0, 0, 1, 1]])
    >>> [round(float(iou_loss(unit, unit + torch.tensor([2.0, 0, 2, 0]), k)), 4) for k in ("iou", "giou", "diou")]
    [1.0, 1.3333, 1.4]
    """
    if kind not in ("iou", "giou", "diou", "ciou"):
        raise ValueError(f"kind: expected iou, giou, diou or ciou, got {kind!r}")
    low, high = torch.maximum(given[..., :2], wanted[..., :2]), torch.minimum(given[..., 2:], wanted[..., 2:])
    shared = (high - low).clamp_min(0).prod(-1)
    union = area(given) + area(wanted) - shared
    iou = shared / (union + EPSILON)
    if kind == "iou":
        return 1 - iou
    around = torch.maximum(given[..., 2:], wanted[..., 2:]) - torch.minimum(given[..., :2], wanted[..., :2])
    if kind == "giou":
        hull = around.prod(-1)
        return 1 - iou + (hull - union) / (hull + EPSILON)
    apart = (given[..., :2] + given[..., 2:] - wanted[..., :2] - wanted[..., 2:]) / 2
    loss = 1 - iou + apart.square().sum(-1) / (around.square().sum(-1) + EPSILON)
    return loss if kind == "diou" else loss + _shape_term(given, wanted, iou)


def _shape_term(given: Tensor, wanted: Tensor, iou: Tensor) -> Tensor:
    """a v of CIoU."""
    (w, h), (wide, high) = ((b[..., 2:] - b[..., :2]).unbind(-1) for b in (given, wanted))
    v = 4 / math.pi**2 * (torch.atan(wide / high) - torch.atan(w / h)).square()
    with torch.no_grad():
        weight = v / (1 - iou + v + EPSILON)
    return weight * v
