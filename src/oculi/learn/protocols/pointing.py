r"""Classification and the pointing game, for networks whose class score is the mean of a map per class.

A hit: the place where the map of the picture's own class, enlarged to the picture, is highest lies in the box of its
one object (Zhang et al. 2016, arXiv:1608.00507). `chance` is what a random pixel would reach: the box's share of the picture.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from oculi.data.datasets import Splits, batches
from oculi.learn.protocols import classification
from oculi.system import System, evaluating


def score(system: System, splits: Splits, split: str) -> dict[str, float]:
    """The figures of classification, `pointing_game` (share of hits) and its `chance`."""
    figures = classification.score(system, splits, split)
    if not hasattr(system, "class_maps"):
        raise ValueError(f"protocol: {type(system).__name__} has no class_maps to point with")
    network: Any = system
    hits, shares = [], []
    with evaluating(system):
        for batch in batches(getattr(splits, split), 128):
            if batch.label is None or batch.boxes is None or any(len(boxes) != 1 for boxes in batch.boxes):
                raise ValueError("dataset: the pointing game needs a label and one box per sample (fields: [boxes])")
            height, width = batch.pictures.shape[-2:]
            boxes = torch.cat(batch.boxes)
            maps = network.class_maps(batch.pictures.to(system.device)).cpu()
            hits.append(pointed(maps, batch.label, boxes, height, width))
            shares.append((boxes[:, 2:] - boxes[:, :2]).prod(1) / (height * width))
    figures["pointing_game"] = float(torch.cat(hits).float().mean())
    return {**figures, "chance": float(torch.cat(shares).mean())}


def pointed(
    maps: Float[Tensor, "n classes h w"], label: Int[Tensor, " n"], boxes: Float[Tensor, "n 4"], height: int, width: int
) -> Bool[Tensor, " n"]:
    """Whether each label's map, enlarged (bilinear) to `height` x `width`, is highest inside the box."""
    own = maps[torch.arange(len(label)), label][:, None]
    enlarged = F.interpolate(own, size=(height, width), mode="bilinear", align_corners=False)
    highest = enlarged.flatten(1).argmax(1)
    place = torch.stack([highest % width, highest // width], 1) + 0.5
    return ((place >= boxes[:, :2]) & (place <= boxes[:, 2:])).all(1)
