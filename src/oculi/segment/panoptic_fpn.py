r"""Panoptic FPN: Mask R-CNN and a semantic branch on one pyramid; every pixel gets a class, every thing its own segment.

    instances   Mask R-CNN: boxes, classes and masks of things
    semantic    every level by 3x3 convolutions with group norm and ReLU, each followed by bilinear doubling, up to the
                finest; their sum, 1x1 convolution: a logit per stuff class and one for "some thing", up to the picture
    merging     things of score above 0.5, best first, get their pixels if at least half of them are still free; the rest
                goes to stuff, each class having at least half a per cent of the picture, or stays unlabelled

Losses: those of Mask R-CNN, and half the cross-entropy of the semantic branch. Classes in `semantic` maps and in answers:
stuff first, 0 .. stuff - 1, then things, in the order of the detector's labels. Half a per cent is the paper's 64^2 pixels
of a COCO picture. Crowd regions are not trained on.

Kirillov, Girshick, He, Dollar: Panoptic Feature Pyramid Networks, 2019, arXiv:1901.02446.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.segmentation_losses import pixel_cross_entropy
from oculi.ops.panoptic_merge import merge
from oculi.predictions import Panoptic
from oculi.segment.mask_rcnn import THRESHOLD, MaskRCNN
from oculi.system import System
from oculi.types import IGNORE, Batch, Losses

LEAST_SCORE, WEIGHT = 0.5, 0.5


class SemanticBranch(nn.Module):
    """From a pyramid's levels to logits at the finest level's resolution; `width` channels between."""

    def __init__(self, channels: int, width: int, strides: list[int], classes: int):
        super().__init__()
        self.branches = nn.ModuleList()
        for stride in strides:
            doublings = (stride // strides[0]).bit_length() - 1
            sizes = [channels] + [width] * max(1, doublings)
            self.branches.append(nn.Sequential(*(_block(a, b) for a, b in pairwise(sizes))))
        self.logits = nn.Conv2d(width, classes, 1)

    def forward(self, maps: list[Tensor]) -> Float[Tensor, "b classes h w"]:
        total = torch.zeros((), device=maps[0].device)
        for index, (x, blocks) in enumerate(zip(maps, self.branches, strict=False)):
            for block in blocks.children():
                x = block(x)
                if index:
                    x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
            total = total + x[..., : maps[0].shape[-2], : maps[0].shape[-1]]  # an odd map was rounded up
        return self.logits(total)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.GroupNorm(math.gcd(32, outputs), outputs), nn.ReLU(inplace=True))


class PanopticFPN(System):
    """Panoptic FPN. num_classes: things; stuff: classes that are not counted; the rest: see MaskRCNN.

    The semantic branch has half the pyramid's `channels`, 128 of 256 in the paper.
    """

    answer = Panoptic

    def __init__(
        self,
        num_classes: int = 80,
        stuff: int = 53,
        depths: list[int] = [2, 2, 2, 2],  # noqa: B006 - read only; a list so that JSON gives it back
        bottleneck: bool = False,
        width: int = 64,
        stem: Literal["imagenet", "small"] = "imagenet",
        channels: int = 256,
        hidden: int = 1024,
        anchors: list[int] = [32, 64, 128, 256, 512],  # noqa: B006
        proposals: int = 1000,
        in_channels: int = 3,
        image_size: int = 512,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if stuff < 1 or channels < 2:
            raise ValueError(f"stuff, channels: expected at least 1 and 2, got {stuff} and {channels}")
        self.instances = MaskRCNN(
            num_classes, depths, bottleneck, width, stem, channels, hidden, anchors, proposals, "align", in_channels,
            image_size,
        )  # fmt: skip
        detector = self.instances.detector
        self.stuff = stuff
        self.semantic = SemanticBranch(channels, channels // 2, detector.strides[: detector.levels], stuff + 1)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The pyramid's maps, finest first."""
        return self.instances.features(self.normalize(image))

    def logits(self, maps: list[Tensor], size: list[int]) -> Float[Tensor, "b classes h w"]:
        """What the semantic branch says of each pixel of a picture of `size`: stuff classes, then "some thing"."""
        return F.interpolate(self.semantic(maps), size=size, mode="bilinear")

    def forward(
        self, image: Float[Tensor, "b c h w"]
    ) -> tuple[Int[Tensor, "b h w"], Float[Tensor, "b segments"], Int[Tensor, "b segments"]]:
        """The segment of each pixel (0 none, k the k-th) and all segments' scores and classes; a score of 0: not there.

        Detections come first, best first, then one segment for each kind of stuff.
        """
        maps, size = self.features(image), list(image.shape[-2:])
        _, scores, labels, masks = self.instances.detect(maps, size)
        chances = self.logits(maps, size).softmax(1)
        segments = merge(masks > THRESHOLD, scores > LEAST_SCORE, chances.argmax(1), self.stuff)
        every = torch.arange(1, scores.shape[1] + self.stuff + 1, device=scores.device)
        there = (segments.flatten(1)[:, None] == every[:, None]).any(-1)
        kinds = torch.arange(self.stuff, device=scores.device).expand(scores.shape[0], -1)
        sure = (chances[:, :-1] * (segments[:, None] == every[-self.stuff :, None, None])).sum((2, 3))
        counted = (segments[:, None] == every[-self.stuff :, None, None]).sum((2, 3)).clamp_min(1)
        return (
            segments,
            torch.cat([scores, sure / counted], 1) * there,
            torch.cat([labels + self.stuff, kinds], 1),
        )

    def loss(self, batch: Batch) -> Losses:
        if batch.semantic is None:
            raise ValueError("batch.semantic: expected a class per pixel, got None")
        maps, target = self.features(batch.pictures), batch.semantic.long()
        wanted = torch.where(target == IGNORE, IGNORE, target.clamp_max(self.stuff))
        stuff = pixel_cross_entropy(self.logits(maps, list(target.shape[-2:])), wanted)
        return self.instances.learn(maps, batch) | {"semantic": WEIGHT * stuff}

    def predict(self, batch: Batch) -> list[Panoptic]:
        return [self._compact(*one) for one in zip(*self(batch.image), strict=True)]

    def _compact(self, segments: Tensor, scores: Tensor, labels: Tensor) -> Panoptic:
        """Only the segments that are there, numbered anew."""
        there = scores > 0
        number = F.pad(there.cumsum(0) * there, (1, 0))
        names = [f"stuff {k}" for k in range(self.stuff)] if self.stuff > 1 else ["background"]
        named = None if self.class_names is None else [*names, *self.class_names]
        return Panoptic(number[segments], labels[there], scores[there], named)
