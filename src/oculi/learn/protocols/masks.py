r"""Masks without a class: how well the objects of each picture are covered by what the system finds unasked."""

from __future__ import annotations

from typing import cast

import torch

from oculi.data.datasets import Splits, batches
from oculi.ops.boxes import mask_iou
from oculi.predictions import Masks
from oculi.system import System, predict


def score(system: System, splits: Splits, split: str) -> dict[str, float]:
    """best_iou (mean over objects of the largest IoU with any mask), recall50 and recall75 (objects with a mask of that
    IoU), top_iou (mean over pictures of the IoU of the best-scored mask with its object), masks (their mean number).

    Pictures without objects count for `masks` alone; where nothing is found, the IoU is 0.
    """
    best, top, number = [], [], []
    for batch in batches(getattr(splits, split), 16):
        if batch.masks is None:
            raise ValueError("dataset: its samples have no masks")
        for answer, truth in zip(predict(system, batch), batch.masks, strict=True):
            one = cast(Masks, answer.cpu())
            number.append(len(one.masks))
            if not len(truth):
                continue
            overlap = mask_iou(truth, one.masks) if len(one.masks) else torch.zeros(len(truth), 1)
            best.append(overlap.amax(1))
            top.append(overlap[:, one.scores.argmax() if len(one.masks) else 0].amax())
    scores = {"masks": sum(number) / max(1, len(number))}
    if best:
        each = torch.cat(best)
        scores |= {"best_iou": float(each.mean()), "top_iou": float(torch.stack(top).mean())}
        scores |= {f"recall{t}": float((each >= t / 100).double().mean()) for t in (50, 75)}
    return scores
