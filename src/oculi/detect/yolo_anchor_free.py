r"""Anchor-free YOLO: every cell of a pyramid says what is there and how far the box's four sides are; no anchors.

    image      batch x C x H x W
    trunk      cross-stage partial (CSP) network: in each stage half of the channels pass through residual blocks, the
               other half beside them; the last stage pools at several sizes; strides s, 2s, 4s
    neck       path aggregation: down the pyramid as in FPN, but joined by concatenation, and up again
    head       decoupled, per level: two 3x3 convolutions for the classes and two for the box
    outputs    per cell C independent logits, and for each side a distribution over the distances 0, 1, .., K - 1 strides

The box of a cell centred at (x, y) is   x - d_1 s, y - d_2 s, x + d_3 s, y + d_4 s,   d_k being the mean of its
distribution. Which cells answer for an object is decided anew in each step, by how well they already do:

    t = p^a IoU^b                   p: the score for the object's class; a = 1, b = 6
    candidates                      cells whose centre lies in the object's box, and the one nearest to its centre
    assigned                        the `top` candidates of largest t; a cell wanted by several objects takes the one of
                                    largest IoU
    t^ = t max(IoU) / max(t)        over the cells of the object: the best is to be as sure as it is precise

Losses, sums over cells divided by the sum of t^:

    classes    binary cross-entropy against t^ at the object's class and 0 elsewhere
    boxes      2 t^ (1 - CIoU)
    distances  t^ / 4 times the mean over sides of  -(r - d) log q_l - (d - l) log q_r,   l <= d < r = l + 1

Scores above 0.02, twice what they begin with, go through NMS at 0.6 by class (at most 300 of them). Put together from
what the papers say; the weights of the losses are those of generalised focal loss.

Ge et al.: YOLOX, 2021, arXiv:2107.08430. Feng et al.: TOOD (task-aligned assignment), 2021, arXiv:2108.07755.
Li et al.: Generalized Focal Loss (distributions of distances), 2020, arXiv:2006.04388.
Wang et al.: CSPNet, 2019, arXiv:1911.11929. Liu et al.: Path Aggregation Network, 2018, arXiv:1803.01534.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.convolution import conv_norm, kaiming_init
from oculi.nn.detection import Found, Truth, answers, best_of, by_cell, objects_of, separate
from oculi.ops.boxes import box_iou, clip
from oculi.ops.iou_losses import iou_loss
from oculi.predictions import Detections
from oculi.system import System
from oculi.types import Batch, Losses

ALPHA, BETA, PRIOR, BOXES, DISTANCES = 1.0, 6.0, 0.01, 2.0, 0.25
LEAST_SCORE, OVERLAP, MOST_CANDIDATES, MOST_DETECTIONS = 0.02, 0.6, 300, 100


def conv_silu(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, x sigmoid(x)."""
    return nn.Sequential(*conv_norm(inputs, outputs, kernel, stride), nn.SiLU(inplace=True))


class CrossStage(nn.Module):
    """Half of the channels through `depth` blocks of 1x1 and 3x3 convolutions (residual where asked for), then joined."""

    def __init__(self, inputs: int, outputs: int, depth: int, residual: bool = True):
        super().__init__()
        half = outputs // 2
        self.through, self.beside = conv_silu(inputs, half, 1), conv_silu(inputs, half, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv_silu(half, half, 1), conv_silu(half, half, 3)) for _ in range(depth)
        )
        self.join, self.residual = conv_silu(2 * half, outputs, 1), residual

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h w"]:
        beside, x = self.beside(x), self.through(x)
        for block in self.blocks:
            x = x + block(x) if self.residual else block(x)
        return self.join(torch.cat([x, beside], 1))


class ManySizes(nn.Module):
    """The map beside its maxima over 5, 9 and 13 cells, as three poolings of 5 in a row."""

    def __init__(self, channels: int):
        super().__init__()
        self.reduce, self.join = conv_silu(channels, channels // 2, 1), conv_silu(2 * channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        parts = [self.reduce(x)]
        for _ in range(3):
            parts.append(F.max_pool2d(parts[-1], 5, 1, padding=2))
        return self.join(torch.cat(parts, 1))


class PathAggregation(nn.Module):
    """From coarse to fine and back: each map, its channels kept, gets what the coarser and then the finer ones know."""

    def __init__(self, channels: list[int], depth: int):
        super().__init__()
        pairs = list(pairwise(channels))
        self.lateral = nn.ModuleList(conv_silu(coarse, fine, 1) for fine, coarse in pairs)
        self.down = nn.ModuleList(CrossStage(2 * fine, fine, depth, residual=False) for fine, _ in pairs)
        self.stride = nn.ModuleList(conv_silu(fine, fine, 3, 2) for fine, _ in pairs)
        self.up = nn.ModuleList(CrossStage(fine + coarse, coarse, depth, residual=False) for fine, coarse in pairs)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = list(maps)
        for i in range(len(maps) - 2, -1, -1):
            coarse = F.interpolate(self.lateral[i](maps[i + 1]), size=maps[i].shape[-2:], mode="nearest")
            maps[i] = self.down[i](torch.cat([coarse, maps[i]], 1))
        for i in range(len(maps) - 1):
            maps[i + 1] = self.up[i](torch.cat([self.stride[i](maps[i]), maps[i + 1]], 1))
        return maps


class Branch(nn.Sequential):
    """Two 3x3 convolutions and a 1x1 that predicts."""

    def __init__(self, inputs: int, hidden: int, outputs: int, bias: float):
        last = nn.Conv2d(hidden, outputs, 1)
        super().__init__(conv_silu(inputs, hidden, 3), conv_silu(hidden, hidden, 3), last)
        self.bias = bias

    def begin(self) -> None:
        """The last layer says little but its bias."""
        nn.init.normal_(self.get_parameter("2.weight"), std=0.1)
        nn.init.constant_(self.get_parameter("2.bias"), self.bias)


def box_from_sides(
    sides: Float[Tensor, "b n 4 bins"], points: Float[Tensor, "n 2"], strides: Float[Tensor, " n"]
) -> Float[Tensor, "b n 4"]:
    """Boxes in pixels: each side lies the mean of its distribution away from the cell's centre, in strides."""
    mean = sides.softmax(-1) @ torch.arange(sides.shape[-1], device=sides.device, dtype=sides.dtype)
    away = mean * strides[:, None]
    return torch.cat([points - away[..., :2], points + away[..., 2:]], -1)


def candidates(points: Float[Tensor, "n 2"], boxes: Float[Tensor, "b g 4"]) -> Bool[Tensor, "b g n"]:
    """Whether a cell's centre lies in an object's box or, of all cells, nearest to the box's centre."""
    inside = ((points > boxes[:, :, None, :2]) & (points < boxes[:, :, None, 2:])).all(-1)
    far = torch.cdist((boxes[..., :2] + boxes[..., 2:]) / 2, points.expand(len(boxes), -1, -1))
    return inside | (far == far.amin(-1, keepdim=True))


@torch.no_grad()
def align(
    scores: Float[Tensor, "b n classes"],
    boxes: Float[Tensor, "b n 4"],
    points: Float[Tensor, "n 2"],
    truth: Truth,
    top: int,
) -> tuple[Int[Tensor, "b n"], Float[Tensor, "b n"]]:
    """Task-aligned assignment: the object of each cell (-1: none) and how sure the cell should be, t^."""
    overlap = box_iou(truth.boxes, boxes)
    own = truth.kinds[..., None].expand(-1, -1, scores.shape[1])
    quality = scores.transpose(1, 2).gather(1, own) ** ALPHA * overlap**BETA
    open_ = candidates(points, truth.boxes) & truth.real[..., None]
    quality = torch.where(open_, quality, -1.0)
    best, index = quality.topk(min(top, quality.shape[2]), 2)
    chosen = torch.zeros_like(open_).scatter(2, index, best >= 0)
    value, matched = torch.where(chosen, overlap, -1.0).max(1)
    matched = torch.where(value >= 0, matched, -1)
    mine = matched[:, None] == torch.arange(truth.real.shape[1], device=boxes.device)[:, None]
    quality, overlap = quality * mine, overlap * mine
    sure = quality * overlap.amax(2, keepdim=True) / quality.amax(2, keepdim=True).clamp_min(1e-12)
    return matched, sure.sum(1)


def distance_loss(sides: Float[Tensor, "n 4 bins"], wanted: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """Cross-entropy of the two distances (in strides) on either side of the wanted one, by nearness, mean over sides."""
    wanted = wanted.clamp(0, sides.shape[-1] - 1.01)
    left = wanted.floor()
    log = sides.log_softmax(-1)
    near, far = (log.gather(-1, (left + k).long()[..., None])[..., 0] for k in (0, 1))
    return -((left + 1 - wanted) * near + (wanted - left) * far).mean(-1)


class YOLOAnchorFree(System):
    """A modern YOLO of one prediction per cell.

    width: channels of the stem, doubled by each stage; depths: blocks of each stage, of which the stem's stride is 2 and
    stage k's 2^(k+2); levels: how many of the last are predicted from; neck: blocks of its joints; hidden: channels of
    the head's branches; bins: distances of a side, in strides; top: cells for each object.
    """

    answer = Detections

    def __init__(
        self,
        num_classes: int = 80,
        width: int = 32,
        depths: list[int] = [1, 2, 2, 1],  # noqa: B006 - read only; a list so that JSON gives it back
        levels: int = 3,
        neck: int = 1,
        hidden: int = 64,
        bins: int = 16,
        top: int = 10,
        in_channels: int = 3,
        image_size: int = 640,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if not 1 <= levels <= len(depths):
            raise ValueError(f"levels: expected 1 to {len(depths)} for {len(depths)} stages, got {levels}")
        if num_classes < 1 or bins < 2 or top < 1:
            raise ValueError(f"num_classes, bins, top: expected at least 1, 2 and 1, got {num_classes}, {bins}, {top}")
        self.num_classes, self.levels, self.bins, self.top = num_classes, levels, bins, top
        self.stem = conv_silu(in_channels, width, 3, 2)
        channels = [width * 2 ** (k + 1) for k in range(len(depths))]
        self.stages = nn.ModuleList()
        for inputs, outputs, depth in zip([width, *channels], channels, depths, strict=False):
            self.stages.append(nn.Sequential(conv_silu(inputs, outputs, 3, 2), CrossStage(outputs, outputs, depth)))
        self.sizes = ManySizes(channels[-1])
        self.strides = [2 ** (k + 2) for k in range(len(depths))][-levels:]
        own = channels[-levels:]
        self.neck = PathAggregation(own, neck)
        bias = -math.log((1 - PRIOR) / PRIOR)
        self.classes = nn.ModuleList(Branch(n, hidden, num_classes, bias) for n in own)
        self.sides = nn.ModuleList(Branch(n, hidden, 4 * bins, 0.0) for n in own)
        kaiming_init(self)
        for branch in [*self.classes, *self.sides]:
            branch.begin()

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The neck's maps, finest first, at `self.strides`."""
        x, maps = self.stem(self.normalize(image)), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        maps[-1] = self.sizes(x)
        return self.neck(maps[-self.levels :])

    def cells(self, maps: list[Tensor]) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
        """The centre (x, y) of each cell in pixels, and its stride."""
        points, strides = [], []
        for x, stride in zip(maps, self.strides, strict=True):
            down, across = ((torch.arange(n, device=x.device) + 0.5) * stride for n in x.shape[-2:])
            points.append(torch.stack(torch.meshgrid(down, across, indexing="ij")[::-1], -1).reshape(-1, 2))
            strides.append(torch.full((len(points[-1]),), float(stride), device=x.device))
        return torch.cat(points), torch.cat(strides)

    def dense(
        self, image: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b n classes"], Float[Tensor, "b n 4 bins"], Float[Tensor, "n 2"], Float[Tensor, " n"]]:
        """Class logits, logits of the sides' distances, centres and strides of all cells."""
        maps = self.features(image)
        logits = [by_cell(branch(x), self.num_classes) for branch, x in zip(self.classes, maps, strict=True)]
        sides = [by_cell(branch(x), 4 * self.bins) for branch, x in zip(self.sides, maps, strict=True)]
        return torch.cat(logits, 1), torch.cat(sides, 1).unflatten(2, (4, self.bins)), *self.cells(maps)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Found:
        """Boxes, scores and labels of d detections, best first; what follows the last is 0."""
        logits, sides, points, strides = self.dense(image)
        boxes = clip(box_from_sides(sides, points, strides), *image.shape[-2:])
        score, place, label = best_of(logits.sigmoid(), LEAST_SCORE, MOST_CANDIDATES)
        rows = torch.arange(image.shape[0], device=image.device)[:, None]
        return separate(boxes[rows, place], score, label, OVERLAP, MOST_DETECTIONS)

    def loss(self, batch: Batch) -> Losses:
        truth = objects_of(batch)
        logits, sides, points, strides = self.dense(batch.pictures)
        boxes = box_from_sides(sides, points, strides)
        matched, sure = align(logits.detach().sigmoid(), boxes.detach(), points, truth, self.top)
        row, place = (matched >= 0).nonzero(as_tuple=True)
        own, weight = matched[row, place], sure[row, place]
        said = torch.zeros_like(logits)
        said[row, place, truth.kinds[row, own]] = weight
        wanted, count = truth.boxes[row, own], sure.sum().clamp_min(1)
        away = torch.cat([points[place] - wanted[:, :2], wanted[:, 2:] - points[place]], 1) / strides[place, None]
        return {
            "classes": F.binary_cross_entropy_with_logits(logits, said, reduction="sum") / count,
            "boxes": BOXES * (weight * iou_loss(boxes[row, place], wanted, "ciou")).sum() / count,
            "distances": DISTANCES * (weight * distance_loss(sides[row, place], away)).sum() / count,
        }

    def predict(self, batch: Batch) -> list[Detections]:
        return answers(self(batch.pictures), self.class_names)
