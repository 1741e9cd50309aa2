r"""Non-maximum suppression: keep the best box, drop what overlaps it by more than the threshold, repeat.

    keep_i = not any (j better than i, keep_j, IoU(i, j) > threshold)

`greedy_nms` is the definition, one box after the other. `nms` and `surviving` solve the equation for all boxes (and
pictures) at once: starting from keep = 1, each sweep settles every box whose better neighbours are settled, so the only
fixed point, which is the greedy answer, is reached after as many sweeps as the longest chain of overlaps, a handful.
Equal scores are taken in the order given.

A few boxes are compared all with all, which is also what an exported file does. Of many, each group's best are settled
first, all groups at once; what they cover is dropped, and so on with those that are left: as many comparisons as there
are boxes, times those kept of their group.

Neubeck, Van Gool: Efficient Non-Maximum Suppression, ICPR 2006.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop
from torch.nn import functional as F

from oculi.ops.boxes import area, box_iou

FEW, LEAST_BLOCK, LARGEST_BLOCK, PAIRS_AT_ONCE = 128, 32, 256, 1 << 16


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
    """Which boxes NMS within each group keeps, for any number of sets at once; a score of -inf means that there is none."""
    few = torch.compiler.is_exporting() or scores.shape[-1] <= FEW
    return (surviving_of_few if few else surviving_of_many)(boxes, scores, groups, threshold)


def surviving_of_few(
    boxes: Float[Tensor, "*b n 4"], scores: Float[Tensor, "*b n"], groups: Int[Tensor, "*b n"], threshold: float
) -> Bool[Tensor, "*b n"]:
    """`surviving` by comparing all with all, n^2 memory."""
    order = _best_first(scores)
    boxes, groups = boxes.gather(-2, order[..., None].expand(boxes.shape)), groups.gather(-1, order)
    rivals = (box_iou(boxes, boxes) > threshold) & (groups[..., :, None] == groups[..., None, :])
    rivals = rivals.triu(1).to(boxes.dtype)  # row: the better box
    keep = _fixed_point(rivals)
    return torch.zeros_like(keep).scatter(-1, order, keep) & (scores > -torch.inf)


def surviving_of_many(
    boxes: Float[Tensor, "*b n 4"], scores: Float[Tensor, "*b n"], groups: Int[Tensor, "*b n"], threshold: float
) -> Bool[Tensor, "*b n"]:
    """`surviving` by blocks of each group's best, with the memory of one block."""
    flat, score, label = boxes.reshape(-1, 4), scores.flatten(), groups.flatten()
    sets = torch.arange(scores.numel(), device=boxes.device) // max(1, scores.shape[-1])
    left = score.argsort(descending=True, stable=True)
    left = left[score[left] > -torch.inf]
    left = left[label[left].argsort(stable=True)]
    left = left[sets[left].argsort(stable=True)]  # set by set, group by group, best first
    keep = torch.zeros_like(score, dtype=torch.bool)
    size = LEAST_BLOCK
    while len(left):
        same = (sets[left[1:]] == sets[left[:-1]]) & (label[left[1:]] == label[left[:-1]])
        group = F.pad((~same).long(), (1, 0)).cumsum(0)
        best, rest, group = _blocks(left, group, size)
        settled = _settled(flat, best, threshold)
        kept = torch.where(settled, best, -1)
        keep[kept[settled]] = True
        kept = kept.sort(1, descending=True).values[:, : int(settled.sum(1).max())]
        left = rest[~_covered(flat, kept, rest, group, threshold)]
        size = min(2 * size, LARGEST_BLOCK)
    return keep.reshape(scores.shape)


def _blocks(
    left: Int[Tensor, " n"], group: Int[Tensor, " n"], size: int
) -> tuple[Int[Tensor, "groups block"], Int[Tensor, " rest"], Int[Tensor, " rest"]]:
    """The first of each group, filled up with -1, and the others with their group."""
    count = group.bincount()
    place = torch.arange(len(left), device=left.device) - (count.cumsum(0) - count)[group]
    first = place < size
    best = left.new_full((len(count), min(size, int(count.max()))), -1)
    best[group[first], place[first]] = left[first]
    return best, left[~first], group[~first]


def _settled(
    boxes: Float[Tensor, "n 4"], index: Int[Tensor, "groups block"], threshold: float
) -> Bool[Tensor, "groups block"]:
    """NMS of each row of indices, best first; -1 is never kept."""
    there = index >= 0
    planes = _planes(boxes, index)
    rivals = _overlap([plane[:, :, None] for plane in planes], [plane[:, None] for plane in planes]) > threshold
    return _fixed_point(rivals.triu_(1).to(boxes.dtype)) & there


def _planes(boxes: Tensor, index: Tensor) -> list[Tensor]:
    """Left, top, right, bottom and area of boxes by index; all 0 where it is -1."""
    own = boxes[index] * (index >= 0)[..., None]
    return [*(side.contiguous() for side in own.unbind(-1)), area(own)]


def _overlap(one: list[Tensor], other: list[Tensor]) -> Tensor:
    """IoU, in the arithmetic of `box_iou`, of planes that broadcast."""
    (x1, y1, x2, y2, size), (left, top, right, bottom, large) = one, other
    shared = torch.minimum(x2, right).sub_(torch.maximum(x1, left)).clamp_min_(0)
    shared *= torch.minimum(y2, bottom).sub_(torch.maximum(y1, top)).clamp_min_(0)
    return shared.div_((size + large).sub_(shared).clamp_min_(1e-12))


def _covered(
    boxes: Float[Tensor, "n 4"],
    kept: Int[Tensor, "groups k"],
    rest: Int[Tensor, " rest"],
    group: Int[Tensor, " rest"],
    threshold: float,
) -> Bool[Tensor, " rest"]:
    """Which of `rest` overlap a box that their group has kept."""
    planes, own = _planes(boxes, kept), _planes(boxes, rest)
    found = [rest.new_zeros(0, dtype=torch.bool)]
    step = max(1, PAIRS_AT_ONCE // max(1, kept.shape[1]))
    for start in range(0, len(rest), step):
        part = slice(start, start + step)
        theirs = planes if len(kept) == 1 else [plane[group[part]] for plane in planes]
        found.append((_overlap([plane[part, None] for plane in own], theirs) > threshold).any(1))
    return torch.cat(found)


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
