r"""Greedy non-maximum suppression: keep the best box, drop what overlaps it by more than the threshold, repeat.

Neubeck, Van Gool: Efficient Non-Maximum Suppression, ICPR 2006.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oculi.ops.boxes import box_iou


def nms(boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], threshold: float) -> Int[Tensor, " kept"]:
    """Indices of the boxes kept, best first."""
    order = scores.argsort(descending=True, stable=True)
    overlaps = (box_iou(boxes[order], boxes[order]) > threshold).triu(1).cpu().numpy()
    dropped = torch.zeros(len(order), dtype=torch.bool).numpy()
    for index in range(len(order)):
        if not dropped[index]:
            dropped |= overlaps[index]
    return order[~torch.from_numpy(dropped).to(order.device)]


def batched_nms(
    boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], labels: Int[Tensor, " n"], threshold: float
) -> Int[Tensor, " kept"]:
    """NMS within each label: labels are moved apart so that their boxes cannot meet."""
    if len(boxes) == 0:
        return labels.new_zeros(0)
    apart = labels.to(boxes) * (boxes.max() - boxes.min() + 1)
    return nms(boxes + apart[:, None], scores, threshold)
