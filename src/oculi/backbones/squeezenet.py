r"""SqueezeNet: fire modules, AlexNet's accuracy with a fiftieth of its weights.

A 3x3 convolution from C to C' channels has 9 C C' weights, so a fire module first squeezes C to a few and lets only
half of its outputs see more than one pixel:

    s = ReLU(squeeze(x))                               1x1, C -> S
    z = ReLU([expand1(s), expand3(s)])                 1x1 and 3x3 side by side, S -> 4S each
    z = z + x  where `bypass` and the widths agree     fire 3, 5, 7 and 9 in the paper's count

    image      batch x C x H x W
    stem       version 1_0: 7x7 stride 2, 96 channels; version 1_1: 3x3 stride 2, 64
    fires      eight modules, 3x3 max pooling of stride 2 before the first and twice between them: 1_0 before the
               fourth and the eighth, 1_1 before the third and the fifth, which makes it 2.4 times as fast
    head       dropout, 1x1 convolution to one map per class, ReLU; the class score is the mean of its map

There is no fully connected layer, so pictures may have any size. The last ReLU is a trap: a class whose map is zero
everywhere gets no gradient from its pictures and never comes back; `rectified=False` leaves it out. Differs from the
paper: nothing but this and `in_channels`; as in torchvision the stem has no padding and pooling rounds the size up.

Iandola et al.: SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and < 0.5 MB model size, 2016,
arXiv:1602.07360.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.nn.convolution import conv_relu, fan_in_init
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses

EXPAND = 4  # channels of each expansion for one of the squeeze
STEMS = {"1_0": (96, 7), "1_1": (64, 3)}  # channels, kernel
STAGES = {"1_0": ((0, 3), (3, 7), (7, 8)), "1_1": ((0, 2), (2, 4), (4, 8))}  # the fires between two poolings


class Fire(nn.Module):
    """Squeeze by 1x1, expand by 1x1 and 3x3 side by side; the input is added where `bypass` and the widths agree."""

    def __init__(self, inputs: int, squeezed: int, bypass: bool = False):
        super().__init__()
        expanded = squeezed * EXPAND
        self.squeeze = conv_relu(inputs, squeezed, 1)
        self.expand1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.bypass = bypass and inputs == 2 * expanded

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h w"]:
        squeezed = self.squeeze(x)
        z = F.relu(torch.cat([self.expand1(squeezed), self.expand3(squeezed)], 1), inplace=True)
        return z + x if self.bypass else z


class SqueezeNet(System):
    """SqueezeNet for classification: version `1_0` is the paper's, `1_1` cheaper and as good.

    squeeze: channels that each of the eight fires squeezes to; it gives eight times as many; rectified: ReLU on the class
    maps, as published. `features` gives the maps at strides 4, 8 and 16, `num_classes=0` the mean of the last.
    """

    answer = Classes

    def __init__(
        self,
        num_classes: int = 1000,
        version: Literal["1_0", "1_1"] = "1_0",
        squeeze: list[int] = [16, 16, 32, 32, 48, 48, 64, 64],  # noqa: B006 - read only; a list so that JSON gives it back
        bypass: bool = False,
        rectified: bool = True,
        dropout: float = 0.5,
        in_channels: int = 3,
        image_size: int = 224,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if version not in STEMS:
            raise ValueError(f"version: expected 1_0 or 1_1, got {version!r}")
        if len(squeeze) != 8:
            raise ValueError(f"squeeze: expected eight numbers, one per fire, got {squeeze}")
        inputs, kernel = STEMS[version]
        self.stem = conv_relu(in_channels, inputs, kernel, 2, padding=0)
        self.stages = nn.ModuleList()
        self.strides, self.channels = [4, 8, 16], []
        for first, last in STAGES[version]:
            fires = []
            for squeezed in squeeze[first:last]:
                fires.append(Fire(inputs, squeezed, bypass))
                inputs = 2 * EXPAND * squeezed
            self.stages.append(nn.Sequential(*fires))
            self.channels.append(inputs)
        self.rectified, self.dropout = rectified, dropout
        fan_in_init(self)
        self.head: nn.Module = nn.Identity()
        if num_classes:
            self.head = head = nn.Conv2d(inputs, num_classes, 1)
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The map before each further pooling and the last, finest first; `self.strides`, `self.channels`."""
        x, maps = self.stem(self.normalize(image)), []
        for stage in self.stages:
            x = stage(F.max_pool2d(x, 3, 2, ceil_mode=True))
            maps.append(x)
        return maps

    def class_maps(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes h2 w2"]:
        """One map per class, whose mean is the class score."""
        x = F.dropout(self.features(image)[-1], self.dropout, self.training)
        maps = self.head(x)
        return F.relu(maps, inplace=True) if self.rectified else maps

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, or pooled features where `num_classes` is 0."""
        if isinstance(self.head, nn.Identity):
            return self.features(image)[-1].mean((2, 3))
        return self.class_maps(image).mean((2, 3))

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)
