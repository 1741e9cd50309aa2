r"""Non-maximum suppression: keep the best box, drop what overlaps it by more than the threshold, repeat.

    keep_i = not any (j better than i, keep_j, IoU(i, j) > threshold)

`greedy_nms` is the definition, one box after the other. `nms` and `surviving` solve the equation for all boxes (and
pictures) at once: starting from keep = 1, each sweep settles every box whose better neighbours are settled, so the only
fixed point, which is the greedy answer, is reached after as many sweeps as the longest chain of overlaps, a handful.
Equal scores are taken in the order given.

Neubeck, Van Gool: Efficient Non-Maximum Suppression, ICPR 2006.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from oculi.ops.boxes import box_iou


def greedy_nms(boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], threshold: float) -> Int[Tensor, " kept"]:
    """The readable reference: indices of the boxes kept, best first."""
    left, kept = scores.argsort(descending=True, stable=True), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[box_iou(boxes[best][None], boxes[left])[0] <= threshold]
    return torch.stack(kept) if kept else left


def surviving(
    boxes: Float[Tensor, "*b n 4"], scores: Float[Tensor, "*b n"], groups: Int[Tensor, "*b n"], threshold: float
) -> Bool[Tensor, "*b n"]:
    """Which boxes NMS within each group keeps, for any number of sets of boxes at once."""
    order = _best_first(scores)
    boxes, groups = boxes.gather(-2, order[..., None].expand(boxes.shape)), groups.gather(-1, order)
    rivals = (box_iou(boxes, boxes) > threshold) & (groups[..., :, None] == groups[..., None, :])
    rivals = rivals.triu(1).to(boxes.dtype)  # row: the better box
    keep = _fixed_point(rivals)
    return torch.zeros_like(keep).scatter(-1, order, keep)


def _best_first(scores: Float[Tensor, "*b n"]) -> Int[Tensor, "*b n"]:
    if torch.compiler.is_exporting():
        return scores.topk(scores.shape[-1], -1).indices  # ONNX knows no other sort; there the first is best as well
    return scores.argsort(dim=-1, descending=True, stable=True)


def _fixed_point(rivals: Float[Tensor, "*b n n"]) -> Bool[Tensor, "*b n"]:
    """The keep that solves the equation, boxes being in order."""

    def swept(keep: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        return ((keep[..., None, :] @ rivals)[..., 0, :] == 0).to(keep), keep.clone()

    def moving(keep: Tensor, before: Tensor) -> Tensor:
        return (keep != before).any()

    keep, before = rivals.new_ones(rivals.shape[:-1]), rivals.new_zeros(rivals.shape[:-1])
    if torch.compiler.is_exporting():
        return while_loop(moving, swept, (keep, before))[0] > 0  # a loop of the exported graph
    while moving(keep, before):
        keep, before = swept(keep, before)
    return keep > 0


def nms(boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], threshold: float) -> Int[Tensor, " kept"]:
    """Indices of the boxes kept, best first.

    >>> nms(torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3], [8, 8, 9, 9]]), torch.tensor([0.6, 0.9, 0.3]), 0.5)
    tensor([1, 2])
    """
    return batched_nms(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), threshold)


def batched_nms(
    boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], labels: Int[Tensor, " n"], threshold: float
) -> Int[Tensor, " kept"]:
    """NMS within each label: indices of the boxes kept, best first."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: expected an overlap from 0 to 1, got {threshold}")
    order = scores.argsort(descending=True, stable=True)
    return order[surviving(boxes, scores, labels, threshold)[order]]
