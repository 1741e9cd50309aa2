r"""Fully convolutional network: a classifier without linear layers, so that it answers at every place, for any size.

    x_l      maps of a ResNet at strides 4, 8, 16, 32
    head     3x3 convolution to a quarter of the channels, batch norm, ReLU, dropout, 1x1 convolution to classes: coarse
             scores, which are where a linear layer would be if it slid over the picture
    FCN-32s  the scores of stride 32, 32 times as large by one transposed convolution
    FCN-16s  2x, plus (summed, not concatenated) a 1x1 convolution's scores of the map of stride 16; then 16x
    FCN-8s   2x, plus stride 16's, 2x, plus stride 8's; then 8x

    image     batch x C x H x W, of any size
    logits    batch x classes x H x W

A transposed convolution of factor f has kernel 2f and stride f and begins as bilinear interpolation, w(k) = 1 - |k + 1/2 -
f| / f along each axis; those by 2 learn, the last one stays what it is. Skips begin at zero, as in the paper. Differs from
it in that the classifier is a ResNet, not VGG-16. `upsampling: bilinear` is the form in which torchvision publishes it: no
skips, the ResNet atrous so that its last map has `stride`, one interpolation.

Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, 2014, arXiv:1411.4038.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oculi.backbones.resnet import ResNet
from oculi.input_contract import InputContract
from oculi.nn.aspp import resize
from oculi.nn.atrous import make_atrous
from oculi.nn.segmentation_losses import segmentation_loss
from oculi.predictions import Segmentation
from oculi.system import System
from oculi.types import Batch, Losses


def score_head(inputs: int, classes: int) -> nn.Sequential:
    """Scores of every class at every place of a map."""
    between = inputs // 4
    return nn.Sequential(
        nn.Conv2d(inputs, between, 3, padding=1, bias=False),
        nn.BatchNorm2d(between),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(between, classes, 1),
    )


def transposed_bilinear(classes: int, factor: int, learned: bool) -> nn.Module:
    """A transposed convolution that begins as bilinear interpolation by a power of two; each class alone if not learned."""
    if factor == 1:
        return nn.Identity()
    layer = nn.ConvTranspose2d(
        classes, classes, 2 * factor, factor, factor // 2, groups=1 if learned else classes, bias=False
    )
    line = 1 - ((torch.arange(2 * factor) + 0.5 - factor) / factor).abs()
    which = torch.eye(classes) if learned else torch.ones(classes, 1)
    with torch.no_grad():
        layer.weight.copy_(which[:, :, None, None] * line[:, None] * line)
    return layer.requires_grad_(learned)


class FCN(System):
    """FCN for semantic segmentation; `stride` 32, 16 or 8 is FCN-32s, 16s or 8s.

    With `stem: small` the strides are 1, 2, 4, 8 instead of 4, 8, 16, 32. depths, bottleneck, width: the ResNet's.
    auxiliary: a second head on the last stage but one, whose loss counts half, while training.
    """

    answer = Segmentation

    def __init__(
        self,
        num_classes: int = 21,
        stride: int = 8,
        upsampling: Literal["transposed", "bilinear"] = "transposed",
        depths: list[int] = [3, 4, 6, 3],  # noqa: B006 - read only; a list so that JSON gives it back
        bottleneck: bool = True,
        width: int = 64,
        stem: Literal["imagenet", "small"] = "imagenet",
        auxiliary: bool = False,
        in_channels: int = 3,
        image_size: int = 224,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if upsampling not in ("transposed", "bilinear"):
            raise ValueError(f"upsampling: expected transposed or bilinear, got {upsampling!r}")
        self.backbone = ResNet(0, depths, bottleneck, width, stem, in_channels, image_size)
        channels, strides = self.backbone.channels, self.backbone.strides
        if stride not in strides:
            raise ValueError(f"stride: expected one of {', '.join(map(str, strides))}, got {stride}")
        self.upsampling = upsampling
        self.head = score_head(channels[-1], num_classes)
        self.auxiliary = score_head(channels[-2], num_classes) if auxiliary else None
        if upsampling == "bilinear":
            make_atrous(self.backbone.stages, strides, stride)
            return
        # coarsest first: the maps between the last one and the one of `stride`
        self.skips = nn.ModuleList(
            nn.Conv2d(c, num_classes, 1) for c, s in zip(channels[-2::-1], strides[-2::-1]) if s >= stride
        )
        for skip in self.skips:
            nn.init.zeros_(skip.weight)  # type: ignore[arg-type]
            nn.init.zeros_(skip.bias)  # type: ignore[arg-type]
        self.twice = nn.ModuleList(transposed_bilinear(num_classes, 2, learned=True) for _ in self.skips)
        self.enlarge = transposed_bilinear(num_classes, stride, learned=False)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The ResNet's maps, finest first."""
        return self.backbone.features(self.normalize(image))

    def decode(self, maps: list[Tensor], size: tuple[int, int]) -> Float[Tensor, "b classes h w"]:
        """Logits of a picture of `size` from its maps."""
        scores = self.head(maps[-1])
        if self.upsampling == "bilinear":
            return resize(scores, size)
        for skip, twice, finer in zip(self.skips, self.twice, maps[-2::-1]):
            scores = twice(scores)[..., : finer.shape[-2], : finer.shape[-1]] + skip(finer)
        return self.enlarge(scores)[..., : size[0], : size[1]]

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes h w"]:
        """Logits of every pixel."""
        return self.decode(self.features(image), (image.shape[-2], image.shape[-1]))

    def loss(self, batch: Batch) -> Losses:
        maps, size = self.features(batch.pictures), (batch.pictures.shape[-2], batch.pictures.shape[-1])
        losses = segmentation_loss(self.decode(maps, size), batch.semantic)
        if self.auxiliary is not None:
            second = segmentation_loss(resize(self.auxiliary(maps[-2]), size), batch.semantic)
            losses["auxiliary"] = 0.5 * second["cross_entropy"]
        return losses

    def predict(self, batch: Batch) -> list[Segmentation]:
        probabilities = self(batch.image).softmax(1)
        return [Segmentation(p.argmax(0), p, self.class_names) for p in probabilities]
