r"""Boxes `x1 y1 x2 y2` in pixels: area, IoU, clipping, and the deltas that a detector regresses.

    t = (wx (x - xa) / wa, wy (y - ya) / ha, ww log(w / wa), wh log(h / ha)),   x, y being centres

Girshick et al.: Rich feature hierarchies, 2013, arXiv:1311.2524.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LARGEST_LOG = math.log(1000 / 16)


def area(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Width times height, pixels squared.

    >>> area(torch.tensor([[0.0, 0, 4, 3]]))
    tensor([12.])
    """
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(a: Float[Tensor, "*b n 4"], b: Float[Tensor, "*b m 4"]) -> Float[Tensor, "*b n m"]:
    """Intersection over union of every pair; 0 where both boxes are empty.

    >>> box_iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2], [5.0, 5, 6, 6]]))
    tensor([[0.3333, 0.0000]])
    """
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    shared = (high - low).clamp_min(0).prod(-1)
    union = area(a)[..., :, None] + area(b)[..., None, :] - shared
    return torch.where(union > 0, shared / union.clamp_min(1e-12), torch.zeros_like(union))


def mask_iou(a: Bool[Tensor, "n h w"], b: Bool[Tensor, "m h w"]) -> Float[Tensor, "n m"]:
    """Intersection over union of every pair of masks.

    >>> mask_iou(torch.tensor([[[True, True, False]]]), torch.tensor([[[False, True, False]]]))
    tensor([[0.5000]])
    """
    first, second = a.flatten(1).float(), b.flatten(1).float()
    shared = first @ second.T
    return shared / (first.sum(1)[:, None] + second.sum(1)[None] - shared).clamp_min(1)


def paired_mask_iou(a: Bool[Tensor, "*n h w"], b: Bool[Tensor, "*n h w"]) -> Float[Tensor, "*n"]:
    """Intersection over union of masks side by side."""
    both, either = (a & b).flatten(-2).sum(-1), (a | b).flatten(-2).sum(-1)
    return both / either.clamp_min(1)


def mask_boxes(masks: Bool[Tensor, "*n height width"]) -> Float[Tensor, "*n 4"]:
    """x1 y1 x2 y2 around the true pixels, borders on pixel edges; zeros for an empty mask.

    >>> mask_boxes(torch.eye(3, dtype=torch.bool)[None])
    tensor([[0., 0., 3., 3.]])
    """
    sides = []
    for axis in (-2, -1):
        any_ = masks.any(axis).to(torch.int8)
        length = any_.shape[-1]
        sides.append((any_.argmax(-1), length - any_.flip(-1).argmax(-1)))
    boxes = torch.stack([sides[0][0], sides[1][0], sides[0][1], sides[1][1]], -1).float()
    return boxes * masks.flatten(-2).any(-1)[..., None]


def clip(boxes: Float[Tensor, "*n 4"], height: int, width: int) -> Float[Tensor, "*n 4"]:
    """Boxes cut at the picture's border.

    >>> clip(torch.tensor([[-2.0, 1, 9, 3]]), height=4, width=8)
    tensor([[0., 1., 8., 3.]])
    """
    limits = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp_min(0), limits)


def _centred(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size


def encode(
    boxes: Float[Tensor, "*#n 4"], anchors: Float[Tensor, "*#n 4"], weights: tuple[float, ...] = (1, 1, 1, 1)
) -> Float[Tensor, "... 4"]:
    """The deltas that turn anchors into boxes."""
    (centre, size), (origin, scale) = _centred(boxes), _centred(anchors)
    return torch.cat([(centre - origin) / scale, (size / scale).log()], -1) * boxes.new_tensor(weights)


def decode(
    deltas: Float[Tensor, "*#n 4"], anchors: Float[Tensor, "*#n 4"], weights: tuple[float, ...] = (1, 1, 1, 1)
) -> Float[Tensor, "... 4"]:
    """Boxes from deltas; growth is limited to 1000 / 16."""
    deltas = deltas / deltas.new_tensor(weights)
    origin, scale = _centred(anchors)
    centre = origin + deltas[..., :2] * scale
    half = 0.5 * scale * deltas[..., 2:].clamp_max(LARGEST_LOG).exp()
    return torch.cat([centre - half, centre + half], -1)


def from_centres(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """`x1 y1 x2 y2` from centre and size `x y w h`.

    >>> from_centres(torch.tensor([5.0, 4, 2, 6]))
    tensor([4., 1., 6., 7.])
    """
    centre, half = boxes[..., :2], 0.5 * boxes[..., 2:]
    return torch.cat([centre - half, centre + half], -1)


def to_centres(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Centre and size `x y w h` from `x1 y1 x2 y2`.

    >>> to_centres(torch.tensor([4.0, 1, 6, 7]))
    tensor([5., 4., 2., 6.])
    """
    return torch.cat(_centred(boxes), -1)


def generalized_box_iou(a: Float[Tensor, "*b n 4"], b: Float[Tensor, "*b m 4"]) -> Float[Tensor, "*b n m"]:
    """IoU - (hull - union) / hull of every pair, hull being the smallest box around both: -1 (far apart) to 1 (equal).

    Rezatofighi et al.: Generalized Intersection over Union, 2019, arXiv:1902.09630.

    >>> generalized_box_iou(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[0.0, 0, 1, 1], [3.0, 0, 4, 1]]))
    tensor([[ 1.0000, -0.5000]])
    """
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    shared = (high - low).clamp_min(0).prod(-1)
    union = (area(a)[..., :, None] + area(b)[..., None, :] - shared).clamp_min(1e-12)
    least = torch.minimum(a[..., :, None, :2], b[..., None, :, :2])
    most = torch.maximum(a[..., :, None, 2:], b[..., None, :, 2:])
    hull = (most - least).clamp_min(0).prod(-1).clamp_min(1e-12)
    return shared / union - (hull - union) / hull
