r"""YOLO (v1): one look at the whole picture, and a grid whose cells say what is centred in them.

    image      batch x C x H x W
    trunk      convolutions with leaky ReLU (slope 0.1), 2x2 max pooling between the stages
    head       two fully connected layers, so that every cell sees the whole picture
    outputs    S x S x (5 B + C):   per cell B boxes (x, y, u, v, confidence) and one class distribution
    NMS        of   score = confidence * class,   at 0.5 by class

(x, y) is the box's centre within the cell, from 0 to 1; w = u^2 and h = v^2 are its sides as shares of the picture's,
so that the same error costs more for a small box. The cell that holds an object's centre answers for it (the largest,
where there are several), and of its B boxes the one that overlaps the object most. Sums over cells, mean of pictures:

    boxes        5 sum over responsible boxes of   (x - x^)^2 + (y - y^)^2 + (u - sqrt w^)^2 + (v - sqrt h^)^2
    confidence   sum over responsible boxes of (confidence - IoU)^2,  and half the sum over all others of confidence^2
    classes      sum over cells with an object of the squared error of the distribution

A cell has one class, so that two centres in it are one answer; small objects in groups are what it misses.

Differs from the paper: pooling in place of the two strided convolutions behind the first, batch norm on request.

Redmon, Divvala, Girshick, Farhadi: You Only Look Once, 2015, arXiv:1506.02640.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.convolution import fan_in_init
from oculi.nn.detection import Found, Truth, answers, best_of, objects_of, separate
from oculi.ops.boxes import area, box_iou, clip
from oculi.predictions import Detections
from oculi.system import System
from oculi.types import Batch, Losses

COORDINATES, NO_OBJECT, SLOPE = 5.0, 0.5, 0.1
LEAST_SCORE, OVERLAP, MOST_CANDIDATES, MOST_DETECTIONS = 0.01, 0.5, 300, 100
PAPER = [[64], [192], [-128, 256, -256, 512], [-256, 512] * 4 + [-512, 1024], [-512, 1024] * 2 + [1024] * 2, [1024] * 2]


def to_grid(
    boxes: Float[Tensor, "*n 4"], grid: int, height: int, width: int
) -> tuple[Int[Tensor, "*n"], Float[Tensor, "*n 4"]]:
    """The cell of each box's centre, counted row by row, and (x, y, w, h): within the cell, and of the picture.

    >>> to_grid(torch.tensor([[8.0, 16, 24, 48]]), grid=4, height=64, width=64)
    (tensor([9]), tensor([[0.0000, 0.0000, 0.2500, 0.5000]]))
    """
    size = boxes.new_tensor([width, height])
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 / size * grid
    cell = centre.floor().clamp(0, grid - 1)
    sides = (boxes[..., 2:] - boxes[..., :2]) / size
    return (cell[..., 1] * grid + cell[..., 0]).long(), torch.cat([centre - cell, sides], -1)


def from_grid(
    values: Float[Tensor, "*n 4"], cell: Int[Tensor, "*#n"], grid: int, height: int, width: int
) -> Float[Tensor, "*n 4"]:
    """The inverse of `to_grid`: boxes in pixels."""
    corner = torch.stack([cell % grid, torch.div(cell, grid, rounding_mode="floor")], -1)
    centre, half = (values[..., :2] + corner) / grid, values[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1) * values.new_tensor([width, height] * 2)


class Wanted(NamedTuple):
    """What each cell should say: whether it answers for an object, for which, and that object's (x, y, w, h)."""

    filled: Bool[Tensor, "b cells"]
    own: Int[Tensor, "b cells"]
    values: Float[Tensor, "b cells 4"]


def wanted_of(truth: Truth, grid: int, height: int, width: int) -> Wanted:
    """The largest object whose centre lies in each cell."""
    cell, values = to_grid(truth.boxes, grid, height, width)
    here = F.one_hot(cell, grid * grid).bool() & truth.real[..., None]  # batch x objects x cells
    size, own = (area(truth.boxes)[..., None] * here).masked_fill(~here, -1).max(1)
    return Wanted(size >= 0, own, values.gather(1, own[..., None].expand(-1, -1, 4)))


class YOLOv1(System):
    """YOLO v1. The defaults are the paper's network of 24 convolutions.

    grid: S, cells along each side; boxes: B, per cell. stages: channels of the convolutions between poolings, 3x3, or
    1x1 where the number is negative; stem: the first is 7x7 of stride 2 (`imagenet`) or as the others (`small`).
    hidden, dropout: of the fully connected layers; norm: batch norm in the trunk.
    """

    answer = Detections

    def __init__(
        self,
        num_classes: int = 20,
        grid: int = 7,
        boxes: int = 2,
        stages: list[list[int]] = PAPER,
        stem: Literal["imagenet", "small"] = "imagenet",
        hidden: int = 4096,
        dropout: float = 0.5,
        norm: bool = False,
        in_channels: int = 3,
        image_size: int = 448,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if min(num_classes, grid, boxes) < 1:
            raise ValueError(f"num_classes, grid, boxes: expected at least 1, got {num_classes}, {grid} and {boxes}")
        side = image_size // (2 if stem == "imagenet" else 1) // 2 ** (len(stages) - 1)
        if side < 1:
            raise ValueError(f"image_size: {image_size} pixels are too few for {len(stages)} stages")
        self.num_classes, self.grid, self.boxes, self.dropout = num_classes, grid, boxes, dropout
        self.trunk, inputs = nn.Sequential(), in_channels
        for index, stage in enumerate(stages):
            for number, outputs in enumerate(stage):
                first = index == number == 0 and stem == "imagenet"
                kernel, stride = (7, 2) if first else (1 if outputs < 0 else 3, 1)
                self.trunk.append(nn.Conv2d(inputs, abs(outputs), kernel, stride, kernel // 2, bias=not norm))
                if norm:
                    self.trunk.append(nn.BatchNorm2d(abs(outputs)))
                self.trunk.append(nn.LeakyReLU(SLOPE, inplace=True))
                inputs = abs(outputs)
            if index < len(stages) - 1:
                self.trunk.append(nn.MaxPool2d(2))
        self.hidden = nn.Linear(inputs * side**2, hidden)
        self.output = nn.Linear(hidden, grid**2 * (5 * boxes + num_classes))
        fan_in_init(self)
        nn.init.normal_(self.output.weight, std=0.01)

    def dense(
        self, image: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b cells boxes 5"], Float[Tensor, "b cells classes"]]:
        """What each cell says: boxes (x, y, u, v, confidence) and the distribution over classes."""
        x = F.leaky_relu(self.hidden(self.trunk(self.normalize(image)).flatten(1)), SLOPE)
        x = self.output(F.dropout(x, self.dropout, self.training)).unflatten(1, (self.grid**2, -1))
        boxes, classes = x.split([5 * self.boxes, self.num_classes], -1)
        return boxes.unflatten(2, (self.boxes, 5)), classes

    def decoded(self, boxes: Float[Tensor, "b cells boxes 5"], height: int, width: int) -> Tensor:
        """Boxes in pixels, `batch x cells x boxes x 4`."""
        cell = torch.arange(self.grid**2, device=boxes.device)[:, None]
        values = torch.cat([boxes[..., :2], boxes[..., 2:4].square()], -1)
        return from_grid(values, cell, self.grid, height, width)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Found:
        """Boxes, scores and labels of d detections, best first; what follows the last is 0."""
        said, classes = self.dense(image)
        boxes = clip(self.decoded(said, *image.shape[-2:]), *image.shape[-2:]).flatten(1, 2)
        scores = (said[..., 4:].clamp(0, 1) * classes.clamp(0, 1)[:, :, None]).flatten(1, 2)
        score, place, label = best_of(scores, LEAST_SCORE, MOST_CANDIDATES)
        rows = torch.arange(image.shape[0], device=image.device)[:, None]
        return separate(boxes[rows, place], score, label, OVERLAP, MOST_DETECTIONS)

    def loss(self, batch: Batch) -> Losses:
        truth, size = objects_of(batch), list(batch.pictures.shape[-2:])
        said, classes = self.dense(batch.pictures)
        wanted = wanted_of(truth, self.grid, *size)
        row, cell = wanted.filled.nonzero(as_tuple=True)
        own, n = wanted.own[row, cell], len(said)
        overlaps = box_iou(self.decoded(said.detach(), *size)[row, cell], truth.boxes[row, own][:, None])[..., 0]
        overlap, best = overlaps.max(1)
        responsible = said[row, cell, best]
        values = wanted.values[row, cell]
        away = responsible[:, :4] - torch.cat([values[:, :2], values[:, 2:].sqrt()], 1)
        kinds = F.one_hot(truth.kinds[row, own], self.num_classes)
        others = said[..., 4].square().sum() - responsible[:, 4].square().sum()
        return {
            "boxes": COORDINATES * away.square().sum() / n,
            "confidence": ((responsible[:, 4] - overlap).square().sum() + NO_OBJECT * others) / n,
            "classes": (classes[row, cell] - kinds).square().sum() / n,
        }

    def predict(self, batch: Batch) -> list[Detections]:
        return answers(self(batch.pictures), self.class_names)
