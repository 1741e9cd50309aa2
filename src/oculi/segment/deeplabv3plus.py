r"""DeepLabv3+: atrous convolutions see far without losing the place; a small decoder finds the borders again.

    encoder     ResNet whose last stages are atrous instead of strided: a map of 1/16 (or 1/8) of the resolution
                ASPP over it, depthwise separable, and one more separable 3x3 convolution
    decoder     4x bilinear, to 1/4, concatenated with the first stage's map (reduced to few channels by a 1x1 convolution,
                lest it outweigh the rest), one separable 3x3 convolution, 1x1 to classes
    answer      4x bilinear, to the picture's resolution

    image       batch x C x H x W, of any size
    logits      batch x classes x H x W

The earlier ones are one argument away. `version: v3` has no decoder: dense ASPP, a 3x3 convolution, and bilinear from
there; a second head on the last stage but one helps while learning. `version: v1` has one atrous convolution of the first
rate (a large field of view), a 1x1 convolution, scores. The first DeepLab refined such coarse scores by a fully connected
CRF, dropped since: `crf` asks for it, in answers alone; logits, and what is exported, are without.

Differs from the paper in the encoder, a ResNet instead of a changed Xception, and in one convolution after the
concatenation instead of two, as segmentation_models_pytorch has it.

Chen, Zhu, Papandreou, Schroff, Adam: Encoder-Decoder with Atrous Separable Convolution, 2018, arXiv:1802.02611.
Chen, Papandreou, Schroff, Adam: Rethinking Atrous Convolution, 2017, arXiv:1706.05587 (v3).
Chen, Papandreou, Kokkinos, Murphy, Yuille: Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected
CRFs, 2014, arXiv:1412.7062 (v1).
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oculi.backbones.resnet import ResNet
from oculi.input_contract import InputContract
from oculi.nn.aspp import ASPP, resize
from oculi.nn.atrous import make_atrous
from oculi.nn.convolution import conv_norm
from oculi.nn.segmentation_losses import segmentation_loss
from oculi.nn.separable import SeparableConv
from oculi.predictions import Segmentation
from oculi.segment.dense_crf import dense_crf
from oculi.segment.fcn import score_head
from oculi.system import System
from oculi.types import Batch, Losses


def separable_block(inputs: int, outputs: int) -> nn.Sequential:
    """A separable 3x3 convolution with batch norm and ReLU."""
    return nn.Sequential(SeparableConv(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU())


class DeepLabV3Plus(System):
    """DeepLab for semantic segmentation.

    output_stride: of the encoder's last map; rates: of its atrous convolutions, for that map; channels: of ASPP and decoder;
    depths, bottleneck, width, stem: the ResNet's, whose strides are 4, 8, 16, 32, or 1, 2, 4, 8 with the small stem.
    """

    answer = Segmentation

    def __init__(
        self,
        num_classes: int = 21,
        version: Literal["v1", "v3", "v3plus"] = "v3plus",
        output_stride: int = 16,
        rates: list[int] = [6, 12, 18],  # noqa: B006 - read only; a list so that JSON gives it back
        channels: int = 256,
        depths: list[int] = [3, 4, 6, 3],  # noqa: B006
        bottleneck: bool = True,
        width: int = 64,
        stem: Literal["imagenet", "small"] = "imagenet",
        crf: bool = False,
        in_channels: int = 3,
        image_size: int = 224,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if version not in ("v1", "v3", "v3plus"):
            raise ValueError(f"version: expected v1, v3 or v3plus, got {version!r}")
        if channels < 8:
            raise ValueError(f"channels: expected at least 8, got {channels}")
        self.version, self.crf = version, crf
        self.backbone = ResNet(0, depths, bottleneck, width, stem, in_channels, image_size)
        inputs = self.backbone.channels[-1]
        strides = make_atrous(self.backbone.stages, self.backbone.strides, output_stride)
        if version == "v1":
            self.encoder = nn.Sequential(
                nn.Conv2d(inputs, channels, 3, padding=rates[0], dilation=rates[0]), nn.ReLU(), nn.Dropout(0.5),
                nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Dropout(0.5),
            )  # fmt: skip
        elif version == "v3":
            self.encoder = nn.Sequential(ASPP(inputs, channels, rates), *conv_norm(channels, channels, 3), nn.ReLU())
        else:
            self.encoder = nn.Sequential(ASPP(inputs, channels, rates, True), separable_block(channels, channels))
            # the finest map that is at most four times as fine as the encoder's
            self.low = next(k for k, s in enumerate(strides) if 4 * s >= output_stride)
            few = 48 * channels // 256
            self.reduce = nn.Sequential(*conv_norm(self.backbone.channels[self.low], few, 1), nn.ReLU())
            self.fuse = separable_block(channels + few, channels)
        self.head = nn.Conv2d(channels, num_classes, 1)
        self.auxiliary = score_head(self.backbone.channels[-2], num_classes) if version == "v3" else None

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The ResNet's maps, finest first."""
        return self.backbone.features(self.normalize(image))

    def decode(self, maps: list[Tensor], size: tuple[int, int]) -> Float[Tensor, "b classes h w"]:
        """Logits of a picture of `size` from its maps."""
        x = self.encoder(maps[-1])
        if self.version != "v3plus":
            return resize(self.head(x), size)
        low = self.reduce(maps[self.low])
        x = self.fuse(torch.cat([resize(x, low.shape[-2:], corners=True), low], 1))
        return resize(self.head(x), size, corners=True)

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
        if self.crf:
            probabilities = dense_crf(batch.pictures, probabilities)
        return [Segmentation(p.argmax(0), p, self.class_names) for p in probabilities]
