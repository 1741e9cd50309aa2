r"""RetinaNet: one stage, a dense head on a pyramid, and a loss that the many easy background anchors cannot drown.

    image      batch x C x H x W
    trunk      residual network; its last stages give maps of strides s, 2s, 4s
    pyramid    FPN, and coarser levels of a strided 3x3 convolution each, with ReLU between
    anchors    nine per cell: three sizes a, 2^(1/3) a, 2^(2/3) a and three ratios 1/2, 1, 2
    towers     3x3 convolutions with ReLU, once for classes and once for boxes, shared by all levels
    outputs    per anchor C independent logits, and four deltas

An anchor is an object's from IoU 0.5 (or as its best), background below 0.4, and learns nothing in between. Per picture,
divided by its number of object anchors n, then averaged:

    classes    sum over clear anchors and classes of   -alpha_t (1 - p_t)^gamma log p_t        alpha 1/4, gamma 2
    boxes      sum over object anchors of   |delta - wanted|_1

The class logits begin at log(0.01 / 0.99): at first everything is background, rightly so. `gamma=0` is plain
cross-entropy without alpha, what focal loss is compared with. At the end the 1000 best scores above 0.05 of each level
go through NMS at 0.5 by class.

Differs from the paper as torchvision does: L1 in place of smooth L1, losses averaged over pictures, the first of the
coarser levels made from the pyramid's last map. Towers begin with He's weights, for training from scratch.

Lin, Goyal, Girshick, He, Dollar: Focal Loss for Dense Object Detection, 2017, arXiv:1708.02002.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.backbones.resnet import ResNet
from oculi.input_contract import InputContract
from oculi.nn.convolution import fan_in_init
from oculi.nn.detection import Found, Truth, answers, best_of, by_cell, objects_of, separate
from oculi.nn.focal_loss import focal_loss
from oculi.nn.fpn import FeaturePyramid
from oculi.ops.anchors import BETWEEN, cell_anchors, grid_anchors, match
from oculi.ops.boxes import box_iou, clip, decode, encode
from oculi.predictions import Detections
from oculi.system import System
from oculi.types import Batch, Losses

RATIOS, OCTAVES = (0.5, 1.0, 2.0), (0.0, 1 / 3, 2 / 3)
FOREGROUND, BACKGROUND, ALPHA, PRIOR = 0.5, 0.4, 0.25, 0.01
LEAST_SCORE, OVERLAP, MOST_CANDIDATES, MOST_DETECTIONS = 0.05, 0.5, 1000, 300


class Tower(nn.Module):
    """3x3 convolutions with ReLU and a last one that predicts; the same for every level."""

    def __init__(self, channels: int, depth: int, outputs: int, bias: float = 0.0):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth))
        self.output = nn.Conv2d(channels, outputs, 3, padding=1)
        fan_in_init(self)
        nn.init.normal_(self.output.weight, std=0.01)
        assert self.output.bias is not None
        nn.init.constant_(self.output.bias, bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b outputs h w"]:
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.output(x)


def matched_to(truth: Truth, anchors: Float[Tensor, "n 4"]) -> Int[Tensor, "b n"]:
    """The object that each anchor answers for, or that it answers for none, see `oculi.ops.anchors.match`."""
    overlaps = box_iou(truth.boxes, anchors.expand(len(truth.boxes), -1, -1)).masked_fill(~truth.real[..., None], -1)
    return match(overlaps, FOREGROUND, BACKGROUND, rescue=True)


class RetinaNet(System):
    """RetinaNet. The defaults are those of torchvision's with ResNet-18.

    depths, bottleneck, width, stem: the trunk, see ResNet. channels: of the pyramid and the towers; towers: convolutions
    of each. anchors: the smallest size in pixels on each level, finest first; the last `extra` levels are coarser than
    the trunk's. gamma: of the focal loss.
    """

    answer = Detections

    def __init__(
        self,
        num_classes: int = 80,
        depths: list[int] = [2, 2, 2, 2],  # noqa: B006 - read only; a list so that JSON gives it back
        bottleneck: bool = False,
        width: int = 64,
        stem: Literal["imagenet", "small"] = "imagenet",
        channels: int = 256,
        towers: int = 4,
        anchors: list[int] = [32, 64, 128, 256, 512],  # noqa: B006
        extra: int = 2,
        gamma: float = 2.0,
        in_channels: int = 3,
        image_size: int = 512,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        stages = len(anchors) - extra
        if not 1 <= stages <= len(depths) or extra < 0:
            most = f"1 to {len(depths)} sizes besides the {extra} extra levels"
            raise ValueError(f"anchors: expected {most}, got {anchors}")
        if num_classes < 1:
            raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
        self.num_classes, self.gamma = num_classes, gamma
        self.trunk = ResNet(0, depths, bottleneck, width, stem, in_channels, image_size)
        self.strides = self.trunk.strides[-stages:] + [self.trunk.strides[-1] * 2 ** (k + 1) for k in range(extra)]
        self.pyramid = FeaturePyramid(self.trunk.channels[-stages:], channels)
        self.coarser = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, padding=1) for _ in range(extra))
        self.cells = [cell_anchors([int(size * 2**octave) for octave in OCTAVES], RATIOS) for size in anchors]
        each = len(RATIOS) * len(OCTAVES)
        self.classes = Tower(channels, towers, each * num_classes, -math.log((1 - PRIOR) / PRIOR))
        self.boxes = Tower(channels, towers, each * 4)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The pyramid's maps, finest first, and the coarser levels."""
        stages = len(self.strides) - len(self.coarser)
        maps = self.pyramid(self.trunk.features(self.normalize(image))[-stages:])
        for index, conv in enumerate(self.coarser):
            maps.append(conv(F.relu(maps[-1]) if index else maps[-1]))
        return maps

    def anchors(self, maps: list[Tensor]) -> list[Float[Tensor, "n 4"]]:
        """The anchors of each level, in the order of the outputs."""
        levels = zip(self.cells, maps, self.strides, strict=True)
        return [grid_anchors(cells.to(x), x.shape[-2], x.shape[-1], stride) for cells, x, stride in levels]

    def dense(
        self, maps: list[Tensor]
    ) -> tuple[list[Float[Tensor, "b n classes"]], list[Float[Tensor, "b n 4"]], list[Float[Tensor, "n 4"]]]:
        """Class logits, deltas and anchors of each level."""
        logits = [by_cell(self.classes(x), self.num_classes) for x in maps]
        return logits, [by_cell(self.boxes(x), 4) for x in maps], self.anchors(maps)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Found:
        """Boxes, scores and labels of d detections, best first; what follows the last is 0."""
        rows = torch.arange(image.shape[0], device=image.device)[:, None]
        chosen = []
        for logits, deltas, anchors in zip(*self.dense(self.features(image)), strict=True):
            score, place, label = best_of(logits.sigmoid(), LEAST_SCORE, MOST_CANDIDATES)
            boxes = clip(decode(deltas[rows, place], anchors[place]), *image.shape[-2:])
            chosen.append((boxes, score, label))
        boxes, scores, labels = (torch.cat(part, 1) for part in zip(*chosen, strict=True))
        return separate(boxes, scores, labels, OVERLAP, MOST_DETECTIONS)

    def loss(self, batch: Batch) -> Losses:
        truth = objects_of(batch)
        logits, deltas, anchors = (torch.cat(part, -2) for part in self.dense(self.features(batch.pictures)))
        return self.matched_loss(logits, deltas, anchors, truth, matched_to(truth, anchors))

    def matched_loss(
        self,
        logits: Float[Tensor, "b n classes"],
        deltas: Float[Tensor, "b n 4"],
        anchors: Float[Tensor, "n 4"],
        truth: Truth,
        matched: Int[Tensor, "b n"],
    ) -> Losses:
        """Both losses, once it is known which object each anchor answers for."""
        row, place = (matched >= 0).nonzero(as_tuple=True)
        own = matched[row, place]
        count = (matched >= 0).sum(1).clamp_min(1)
        wanted = torch.zeros_like(logits)
        wanted[row, place, truth.kinds[row, own]] = 1
        each = focal_loss(logits, wanted, self.gamma, ALPHA if self.gamma else None)
        away = (deltas[row, place] - encode(truth.boxes[row, own], anchors[place])).abs().sum(1)
        return {
            "classes": ((each * (matched != BETWEEN)[..., None]).sum((1, 2)) / count).mean(),
            "boxes": (away / count[row]).sum() / len(logits),
        }

    def predict(self, batch: Batch) -> list[Detections]:
        return answers(self(batch.pictures), self.class_names)
