r"""Soft-NMS: what overlaps a better box loses score instead of being removed.

    M = the best box left;   s_i <- s_i f(IoU(M, b_i)) for all others that are left;   repeat

    linear      f(o) = 1 - o where o > threshold, 1 elsewhere
    gaussian    f(o) = exp(-o^2 / sigma)

Two objects that stand in front of one another then both survive, where hard NMS (f = 0 above the threshold) has to
choose. The order of the answer follows the scores as they have become; each step needs the one before, so there is one
per box kept, for all sets of boxes at once.

Bodla, Singh, Chellappa, Davis: Soft-NMS, 2017, arXiv:1704.04503.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oculi.ops.boxes import box_iou


def soft_nms(
    boxes: Float[Tensor, "*b n 4"],
    scores: Float[Tensor, "*b n"],
    labels: Int[Tensor, "*b n"] | None = None,
    method: str = "gaussian",
    sigma: float = 0.5,
    threshold: float = 0.3,
    most: int | None = None,
) -> tuple[Int[Tensor, "*b k"], Float[Tensor, "*b k"]]:
    """Indices of the k = min(n, most) best boxes and the scores that they are left with, best first.

    sigma: of the Gaussian; threshold: of the linear form. With `labels`, boxes of different labels do not meet.

    >>> boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3], [8, 8, 9, 9]])
    >>> index, scores = soft_nms(boxes, torch.tensor([0.6, 0.9, 0.3]), method="linear")
    >>> index.tolist(), [round(s, 2) for s in scores.tolist()]
    ([1, 2, 0], [0.9, 0.3, 0.15])
    """
    if method not in ("gaussian", "linear"):
        raise ValueError(f"method: expected gaussian or linear, got {method!r}")
    if not (sigma > 0 and 0 <= threshold <= 1):
        raise ValueError(f"sigma, threshold: expected above 0 and from 0 to 1, got {sigma} and {threshold}")
    overlap = box_iou(boxes, boxes)
    factor = (-overlap.square() / sigma).exp() if method == "gaussian" else 1 - overlap * (overlap > threshold)
    if labels is not None:
        factor = torch.where(labels[..., :, None] == labels[..., None, :], factor, 1.0)
    count = scores.shape[-1] if most is None else min(most, scores.shape[-1])
    left = scores.clone()
    chosen: list[Tensor] = []
    final: list[Tensor] = []
    for _ in range(count):
        score, best = left.max(-1, keepdim=True)
        chosen.append(best)
        final.append(score)
        row = factor.gather(-2, best[..., None].expand(*best.shape, factor.shape[-1]))[..., 0, :]
        left = (left * row).scatter(-1, best, -torch.inf)
    if not chosen:
        return scores.argsort(-1)[..., :0], scores[..., :0]
    return torch.cat(chosen, -1), torch.cat(final, -1)
