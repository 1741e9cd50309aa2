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

from oculi.ops.boxes import area, box_iou

FEW, LEAST_BLOCK, LARGEST_BLOCK, PAIRS_AT_ONCE = 128, 64, 256, 1 << 16


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
    left, group = _by_group(scores, groups)
    own = boxes.reshape(-1, 4)[left]
    planes = torch.stack([*own.unbind(1), area(own)])  # left, top, right, bottom, area of those that are left
    keep, size = torch.zeros(scores.numel(), dtype=torch.bool, device=boxes.device), LEAST_BLOCK
    while len(left):
        group, count = group.unique_consecutive(return_inverse=True, return_counts=True)[1:]
        place = torch.arange(len(left), device=left.device) - (count.cumsum(0) - count)[group]
        first = place < size
        block, kept = _settled(planes[:, first], group[first], place[first], len(count), threshold)
        keep[left[first]] = kept
        rest = (~first).nonzero()[:, 0]
        rest = rest[~_covered(block, planes[:, rest], group[rest], threshold)]
        left, group, planes = left[rest], group[rest], planes[:, rest]
        size = min(2 * size, LARGEST_BLOCK)
    return keep.reshape(scores.shape)


def _by_group(scores: Float[Tensor, "*b n"], groups: Int[Tensor, "*b n"]) -> tuple[Tensor, Tensor]:
    """Indices into all sets together, set by set, group by group, best first, of what is there; and its group's number."""
    score, label = scores.flatten(), groups.flatten()
    order = score.argsort(descending=True, stable=True)
    order = order[score[order] > -torch.inf]
    if not len(order):
        return order, order
    low, high = (int(v) for v in label.aminmax())
    number = torch.arange(len(label), device=label.device) // scores.shape[-1] * (high - low + 1) + label - low
    if scores.ndim > 1 or low != high:
        order = order[number[order].argsort(stable=True)]
    return order, number[order]


def _settled(
    planes: Float[Tensor, "5 n"], group: Int[Tensor, " n"], place: Int[Tensor, " n"], groups: int, threshold: float
) -> tuple[Float[Tensor, "5 groups k"], Bool[Tensor, " n"]]:
    """NMS of one block, box n being number `place` of its group: those kept, by group, and which they are."""
    width = int(place.max()) + 1
    block = planes.new_zeros(5, groups, width)
    block[:, group, place] = planes  # a box that is all 0 overlaps none
    keep = _fixed_point((_overlap(block[..., None], block[:, :, None]) > threshold).triu_(1).to(planes.dtype))
    kept = keep[group, place]
    number = kept.long().cumsum(0)
    number = number - number[place == 0][group] + kept[place == 0][group].long() - 1  # among those kept of its group
    some = planes.new_zeros(5, groups, int(number.max()) + 1)
    some[:, group[kept], number[kept]] = planes[:, kept]
    return some, kept


def _overlap(one: Float[Tensor, "5 ..."], other: Float[Tensor, "5 ..."]) -> Tensor:
    """IoU, in the arithmetic of `box_iou`, of planes that broadcast."""
    (x1, y1, x2, y2, size), (left, top, right, bottom, large) = one, other
    shared = torch.minimum(x2, right).sub_(torch.maximum(x1, left)).clamp_min_(0)
    shared *= torch.minimum(y2, bottom).sub_(torch.maximum(y1, top)).clamp_min_(0)
    return shared.div_((size + large).sub_(shared).clamp_min_(1e-12))


def _covered(
    block: Float[Tensor, "5 groups k"], planes: Float[Tensor, "5 rest"], group: Int[Tensor, " rest"], threshold: float
) -> Bool[Tensor, " rest"]:
    """Which boxes overlap one that their group has kept."""
    found = [group.new_zeros(0, dtype=torch.bool)]
    step = max(1, PAIRS_AT_ONCE // block.shape[2])
    for start in range(0, len(group), step):
        part = slice(start, start + step)
        theirs = block if block.shape[1] == 1 else block[:, group[part]]
        found.append((_overlap(planes[:, part, None], theirs) > threshold).any(1))
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
    kept = surviving(boxes, scores, labels, threshold).nonzero()[:, 0]
    return kept[scores[kept].argsort(descending=True, stable=True)]
