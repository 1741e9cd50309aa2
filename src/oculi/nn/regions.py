r"""Regions: what every detector that looks at boxes one by one shares, whoever proposed them.

    pooling    each region from the level  k = floor(4 + log2(sqrt(area) / 224)),  2^k being the stride, kept in range
    sampling   regions that overlap an object by 0.5 are foreground, at most a quarter of the sample, the rest background
    head       two fully connected layers, then C + 1 scores (the last is background) and 4 C deltas, four per class
    classes    cross-entropy of all that were sampled
    boxes      smooth L1 (beta 1/9) of the true class's deltas, times (10, 10, 5, 5), of foreground, divided by all sampled
    answers    scores above 0.05 (at most 1000) go through NMS at 0.5 by class; the 100 best

Sets of different sizes are padded and masked, so that everything works on whole batches.

Girshick: Fast R-CNN, 2015, arXiv:1504.08083. Lin et al.: Feature Pyramid Networks, 2016, arXiv:1612.03144.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.nn.detection import Found, Truth, best_of, separate
from oculi.ops.anchors import match
from oculi.ops.boxes import area, box_iou, encode
from oculi.ops.roi_align import roi_align
from oculi.ops.roi_pool import roi_pool
from oculi.types import Losses

FOREGROUND, SHARE, BINS, WEIGHTS = 0.5, 0.25, 7, (10, 10, 5, 5)
LEAST_SCORE, LAST_NMS, MOST_CANDIDATES, MOST_DETECTIONS = 0.05, 0.5, 1000, 100
BETA = 1 / 9
Pooling = Literal["align", "align_shifted", "pool"]


@dataclass(frozen=True)
class Regions:
    """A sample of k regions of each picture: the object that each answers for, which were sampled, which foreground."""

    boxes: Float[Tensor, "b k 4"]
    object: Int[Tensor, "b k"]
    sampled: Bool[Tensor, "b k"]
    positive: Bool[Tensor, "b k"]

    def foreground(self) -> Regions:
        """Its foreground alone, in as few places as can hold it."""
        most = max(1, int(self.positive.sum(1).max()))
        chosen = self.positive.int().topk(most, 1).indices
        rows = torch.arange(len(chosen), device=chosen.device)[:, None]
        positive = self.positive[rows, chosen]
        return Regions(self.boxes[rows, chosen], self.object[rows, chosen], positive, positive)


def sample_balanced(
    foreground: Bool[Tensor, "b n"], background: Bool[Tensor, "b n"], count: int, share: float
) -> tuple[Bool[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """Random foreground, at most `share` of `count` per row, and background to fill up; where there are enough."""
    chance = torch.rand(foreground.shape, device=foreground.device)
    rank = [torch.where(kind, chance, 2.0).argsort(dim=1, stable=True).argsort(1) for kind in (foreground, background)]
    positive = foreground & (rank[0] < int(count * share))
    negative = background & (rank[1] < count - positive.sum(1, keepdim=True))
    return positive, negative


def sample_regions(boxes: Float[Tensor, "b p 4"], solid: Bool[Tensor, "b p"], truth: Truth, count: int) -> Regions:
    """`count` of each picture's `boxes` that are `solid`, or of the true boxes."""
    boxes, solid = torch.cat([boxes, truth.boxes], 1), torch.cat([solid, truth.real], 1)
    overlaps = box_iou(truth.boxes, boxes).masked_fill(~truth.real[..., None], -1)
    matched = match(overlaps, FOREGROUND, FOREGROUND)
    positive, negative = sample_balanced(solid & (matched >= 0), solid & (matched == -1), count, SHARE)
    sampled = positive | negative
    chosen = sampled.int().topk(min(count, sampled.shape[1]), 1).indices  # the sampled first, perhaps more
    rows = torch.arange(len(boxes), device=boxes.device)[:, None]
    own = matched[rows, chosen].clamp_min(0)
    return Regions(boxes[rows, chosen], own, sampled[rows, chosen], positive[rows, chosen])


def smooth_l1(given: Float[Tensor, "n 4"], wanted: Float[Tensor, "n 4"]) -> Float[Tensor, ""]:
    """Sum of d^2 / (2 beta) where |d| < beta, |d| - beta / 2 elsewhere."""
    return F.smooth_l1_loss(given, wanted, beta=BETA, reduction="sum")


def region_losses(
    scores: Float[Tensor, "n classes_and_background"],
    deltas: Float[Tensor, "n classes 4"],
    regions: Regions,
    truth: Truth,
) -> Losses:
    """Both losses of what the head says about n = b k regions."""
    rows = torch.arange(len(regions.boxes), device=scores.device)[:, None]
    sampled, positive = regions.sampled.flatten(), regions.positive.flatten()
    labels = truth.kinds[rows, regions.object].flatten()
    objects, boxes = truth.boxes[rows, regions.object].flatten(0, 1), regions.boxes.flatten(0, 1)
    wanted = encode(objects[positive], boxes[positive], WEIGHTS)
    said = torch.where(positive, labels, scores.shape[1] - 1)
    return {
        "classes": F.cross_entropy(scores[sampled], said[sampled]),
        "boxes": smooth_l1(deltas[positive, labels[positive]], wanted) / sampled.sum(),
    }


def pool_regions(
    maps: list[Tensor], boxes: Float[Tensor, "b p 4"], strides: list[int], bins: int = BINS, how: Pooling = "align"
) -> Float[Tensor, "b p c bins bins"]:
    """Every box from its level of a pyramid with these strides, by RoI Align or RoI pooling.

    `align_shifted` is RoI Align as it was first published, half a cell to the right; see `oculi.ops.roi_align`.
    """
    octave = torch.floor(4 + torch.log2(area(boxes).clamp_min(1e-6).sqrt() / 224) + 1e-6)
    octave = octave.clamp(strides[0].bit_length() - 1, strides[-1].bit_length() - 1)
    pooled = torch.zeros((), device=boxes.device)
    for x, stride in zip(maps, strides, strict=False):
        mine = (octave == stride.bit_length() - 1)[..., None]
        far = torch.where(mine, boxes, -1e4)  # outside the picture every sample is 0
        if how == "pool":
            pooled = pooled + roi_pool(x, far, bins, 1 / stride)
        else:
            pooled = pooled + roi_align(x, far, bins, 1 / stride, aligned=how == "align")
    return pooled


class BoxHead(nn.Module):
    """Two fully connected layers over the pooled regions, class scores with background last, deltas per class."""

    def __init__(self, channels: int, hidden: int, num_classes: int):
        super().__init__()
        self.first, self.second = nn.Linear(channels * BINS**2, hidden), nn.Linear(hidden, hidden)
        self.classes, self.deltas = nn.Linear(hidden, num_classes + 1), nn.Linear(hidden, num_classes * 4)

    def forward(
        self, regions: Float[Tensor, "n c bins bins"]
    ) -> tuple[Float[Tensor, "n scores"], Float[Tensor, "n classes 4"]]:
        x = F.relu(self.second(F.relu(self.first(regions.flatten(1)))))
        return self.classes(x), self.deltas(x).unflatten(1, (-1, 4))


def fan_out_init(head: nn.Module) -> None:
    """He's initialisation by fan-out of a head's convolutions, biases zero, as the authors' heads begin."""
    for parameter in head.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.zeros_(parameter)


def best_detections(boxes: Float[Tensor, "b p classes 4"], scores: Float[Tensor, "b p classes"]) -> Found:
    """What scores enough (the best of it, where it is very much), NMS within each class, the best; 0 behind the last."""
    solid = ((boxes[..., 2:] - boxes[..., :2]) >= 1e-2).all(-1)
    best, place, label = best_of(scores * solid, LEAST_SCORE, MOST_CANDIDATES)
    rows = torch.arange(scores.shape[0], device=scores.device)[:, None]
    return separate(boxes[rows, place, label], best, label, LAST_NMS, MOST_DETECTIONS)
