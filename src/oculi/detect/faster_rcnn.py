r"""Faster R-CNN: propose regions that look like something, then look at each of them again and say what it is.

    image        batch x C x H x W
    trunk        residual network; its last stages give maps of strides s, 2s, 4s, ...
    pyramid      FPN: every map gets the same number of channels and the meaning of the coarser ones
    RPN          3x3 convolution, then two sibling 1x1: for each anchor a score "object or not" and four deltas
    proposals    per level the best anchors, moved by their deltas, clipped, NMS at 0.7, the best of all levels
    RoIAlign     7 x 7 bins from the level  k = floor(4 + log2(sqrt(area) / 224)),  2^k being the stride, kept in range
    head         two fully connected layers, then C + 1 scores (the last is background) and 4 C deltas, four per class

Deltas t = (dx / wa, dy / ha, log w / wa, log h / ha), those of the head times (10, 10, 5, 5). Losses:

    rpn_objectness   binary cross-entropy of 256 sampled anchors a picture, at most half of them foreground
    rpn_boxes        smooth L1 (beta 1/9) of the foreground anchors' deltas, divided by all that were sampled
    classes          cross-entropy of sampled proposals (a quarter foreground), the true boxes being among them
    boxes            smooth L1 of the true class's deltas, of foreground proposals only, divided by all sampled

An anchor is foreground from IoU 0.7 (or as some object's best), background below 0.3; a proposal's border is 0.5. No
gradient flows through the proposals' boxes. At the end scores above 0.05 (at most 1000) go through NMS at 0.5 by class.

Differs from the paper as torchvision does: trained end to end in one phase, with a feature pyramid and RoIAlign in place
of RoIPool, deltas of a proposal weighted, batch norm learning from scratch. Everything works on whole batches; sets of
different sizes are padded and masked.

Ren, He, Girshick, Sun: Faster R-CNN, 2015, arXiv:1506.01497. Girshick: Fast R-CNN, 2015, arXiv:1504.08083.
Lin et al.: Feature Pyramid Networks, 2016, arXiv:1612.03144.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.backbones.resnet import ResNet
from oculi.input_contract import InputContract
from oculi.nn.detection import Truth, answers, objects_of
from oculi.nn.fpn import FeaturePyramid
from oculi.nn.regions import (
    BINS,
    WEIGHTS,
    BoxHead,
    Pooling,
    Regions,
    best_detections,
    pool_regions,
    region_losses,
    sample_balanced,
    sample_regions,
    smooth_l1,
)
from oculi.ops.anchors import cell_anchors, grid_anchors, match
from oculi.ops.boxes import box_iou, clip, decode, encode
from oculi.ops.nms import surviving
from oculi.predictions import Detections
from oculi.system import System
from oculi.types import Batch, Losses

RATIOS = (0.5, 1.0, 2.0)  # height / width of the anchors
RPN_FOREGROUND, RPN_BACKGROUND, RPN_SAMPLES, RPN_SHARE, RPN_NMS = 0.7, 0.3, 256, 0.5, 0.7


class RegionProposals(nn.Module):
    """The RPN's layers: scores `batch x anchors` and deltas `batch x anchors x 4`, level by level, cell by cell."""

    def __init__(self, channels: int, anchors: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, anchors, 1)
        self.deltas = nn.Conv2d(channels, anchors * 4, 1)
        for layer in (self.conv, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, maps: list[Tensor]) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n 4"]]:
        shared = [F.relu(self.conv(x)) for x in maps]
        scores = [self.objectness(x).permute(0, 2, 3, 1).flatten(1) for x in shared]
        deltas = [self.deltas(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)) for x in shared]
        return torch.cat(scores, 1), torch.cat(deltas, 1)


class FasterRCNN(System):
    """Faster R-CNN with a feature pyramid. The defaults are those of torchvision's with ResNet-18.

    depths, bottleneck, width, stem: the trunk, see ResNet. channels: of the pyramid; hidden: of the two-layer head.
    anchors: their size in pixels on each level, finest first; the trunk's last stages serve, and one more level, pooled
    from the coarsest, where there are more sizes than stages. proposals: per picture; half as many are trained on.
    aligned: RoIAlign with exact pixel centres; torchvision's weights want False.
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
        hidden: int = 1024,
        anchors: list[int] = [32, 64, 128, 256, 512],  # noqa: B006
        proposals: int = 1000,
        aligned: bool = True,
        in_channels: int = 3,
        image_size: int = 512,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if not 1 <= len(anchors) <= len(depths) + 1:
            raise ValueError(f"anchors: expected 1 to {len(depths) + 1} sizes for {len(depths)} stages, got {anchors}")
        if num_classes < 1 or proposals < 2:
            raise ValueError(f"num_classes, proposals: expected at least 1 and 2, got {num_classes} and {proposals}")
        self.proposals = proposals
        self.pooling: Pooling = "align" if aligned else "align_shifted"
        self.trunk = ResNet(0, depths, bottleneck, width, stem, in_channels, image_size)
        self.levels = min(len(anchors), len(depths))
        extra = len(anchors) > len(depths)
        self.strides = self.trunk.strides[-self.levels :] + [2 * self.trunk.strides[-1]] * extra
        self.pyramid = FeaturePyramid(self.trunk.channels[-self.levels :], channels, extra)
        self.rpn = RegionProposals(channels, len(RATIOS))
        self.head = BoxHead(channels, hidden, num_classes)
        self.cells = [cell_anchors([size], RATIOS) for size in anchors]

    # the first stage --------------------------------------------------------------------------------------------------

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The pyramid's maps, finest first."""
        return self.pyramid(self.trunk.features(self.normalize(image))[-self.levels :])

    def anchors(self, maps: list[Tensor]) -> list[Float[Tensor, "n 4"]]:
        """The anchors of each level, in the order of the RPN's outputs."""
        levels = zip(self.cells, maps, self.strides, strict=True)
        return [grid_anchors(cells.to(x), x.shape[-2], x.shape[-1], stride) for cells, x, stride in levels]

    @torch.no_grad()
    def propose(
        self, scores: Float[Tensor, "b n"], deltas: Float[Tensor, "b n 4"], anchors: list[Tensor], size: list[int]
    ) -> tuple[Float[Tensor, "b p 4"], Bool[Tensor, "b p"]]:
        """Boxes that may hold something in a picture of `size`, best first, and which of them are real."""
        counts = [len(a) for a in anchors]
        level = torch.cat([torch.full((n,), k, device=scores.device) for k, n in enumerate(counts)])
        parts = zip(scores.split(counts, 1), counts, strict=True)
        first = [sum(counts[:k]) for k in range(len(counts))]
        tops = [part.topk(min(self.proposals, n), 1).indices for part, n in parts]
        best = torch.cat([top + start for top, start in zip(tops, first, strict=True)], 1)
        rows = torch.arange(scores.shape[0], device=scores.device)[:, None]
        boxes = clip(decode(deltas[rows, best], torch.cat(anchors)[best]), *size)
        solid = ((boxes[..., 2:] - boxes[..., :2]) >= 1e-3).all(-1)
        score = scores[rows, best].masked_fill(~solid, -torch.inf)
        score = score.masked_fill(~surviving(boxes, score, level[best], RPN_NMS), -torch.inf)
        score, index = score.topk(min(self.proposals, score.shape[1]), 1)
        return boxes[rows, index], score > -torch.inf

    # the second stage -------------------------------------------------------------------------------------------------

    def pool(self, maps: list[Tensor], boxes: Float[Tensor, "b p 4"], bins: int = BINS) -> Float[Tensor, "n c h w"]:
        """Every box from its level of the pyramid as `bins` x `bins`, n = batch * p."""
        return pool_regions(maps, boxes, self.strides[: self.levels], bins, self.pooling).flatten(0, 1)

    def forward(
        self, image: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b d 4"], Float[Tensor, "b d"], Int[Tensor, "b d"]]:
        """Boxes, scores and labels of d detections, best first; what follows the last is 0."""
        return self.detect(self.features(image), list(image.shape[-2:]))

    def detect(
        self, maps: list[Tensor], size: list[int]
    ) -> tuple[Float[Tensor, "b d 4"], Float[Tensor, "b d"], Int[Tensor, "b d"]]:
        """The same from the pyramid of a picture of `size`."""
        objectness, moves = self.rpn(maps)
        proposals, real = self.propose(objectness, moves, self.anchors(maps), size)
        scores, deltas = (x.unflatten(0, proposals.shape[:2]) for x in self.head(self.pool(maps, proposals)))
        boxes = clip(decode(deltas, proposals[..., None, :], WEIGHTS), *size)
        return best_detections(boxes, scores.softmax(-1)[..., :-1] * real[..., None])

    # the two duties ---------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Losses:
        truth = objects_of(batch)
        return self.learn(self.features(batch.pictures), truth, list(batch.pictures.shape[-2:]))[0]

    def learn(self, maps: list[Tensor], truth: Truth, size: list[int]) -> tuple[Losses, Regions]:
        """All four losses, and the regions that the second stage was taught with, for those who look at them again."""
        anchors, (scores, deltas) = self.anchors(maps), self.rpn(maps)
        proposals, solid = self.propose(scores, deltas, anchors, size)
        regions = sample_regions(proposals, solid, truth, self.proposals // 2)
        judged, moved = self.head(self.pool(maps, regions.boxes))
        first = self.rpn_loss(scores, deltas, torch.cat(anchors), truth)
        return first | region_losses(judged, moved, regions, truth), regions

    def rpn_loss(
        self, scores: Float[Tensor, "b n"], deltas: Float[Tensor, "b n 4"], anchors: Float[Tensor, "n 4"], truth: Truth
    ) -> Losses:
        """Both losses of the first stage."""
        overlaps = box_iou(truth.boxes, anchors.expand(len(truth.boxes), -1, -1))
        overlaps = overlaps.masked_fill(~truth.real[..., None], -1)
        matched = match(overlaps, RPN_FOREGROUND, RPN_BACKGROUND, rescue=True)
        positive, negative = sample_balanced(matched >= 0, matched == -1, RPN_SAMPLES, RPN_SHARE)
        sampled = positive | negative
        row, column = positive.nonzero(as_tuple=True)
        wanted = encode(truth.boxes[row, matched[row, column]], anchors[column])
        return {
            "rpn_objectness": F.binary_cross_entropy_with_logits(scores[sampled], positive[sampled].to(scores)),
            "rpn_boxes": smooth_l1(deltas[positive], wanted) / sampled.sum(),
        }

    def predict(self, batch: Batch) -> list[Detections]:
        return answers(self(batch.pictures), self.class_names)
