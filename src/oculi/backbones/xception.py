r"""Xception: Inception's hypothesis taken to its end; what and where can be looked at one after the other.

Inception assumes that correlations across channels and in space can be mapped apart: 1x1 convolutions for the former,
3x3 on a few groups of channels for the latter. With one group per channel that is a depthwise separable convolution
(`oculi.nn.separable`), and a network is a stack of those with residual connections:

    F(x) = (norm . separable 3x3 . ReLU) two or three times, then max pooling where the resolution halves
    z    = F(x) + skip(x)         skip = x, or a strided 1x1 convolution with norm; no ReLU after the addition

    image          batch x C x H x W
    stem           3x3 stride 2, 3x3, 64 channels, both without padding         (`small`: stride 1, padded)
    entry flow     blocks of 2 convolutions: 128, 256, 728 channels             strides 4, 8, 16   (small: 2, 4, 8)
    middle flow    8 blocks of 3 convolutions, 728 channels                     stride 16          (8)
    exit flow      a block 728 -> 1024, separable convolutions 1536, 2048       stride 32          (16)
    pooled         batch x 2048, then linear to batch x classes

The defaults are the network of the paper. `dense=True` puts a dense 3x3 convolution in the place of each separable one, to
see what the hypothesis costs and saves. Differs from the paper: no dropout, no L2 penalty of its own.

Chollet: Xception: Deep Learning with Depthwise Separable Convolutions, 2016, arXiv:1610.02357.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.nn.convolution import conv_norm, kaiming_init
from oculi.nn.separable import SeparableConv
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses


def separable_norm(inputs: int, outputs: int, dense: bool = False) -> nn.Sequential:
    """A separable 3x3 convolution (or a dense one) and batch norm."""
    if dense:
        return conv_norm(inputs, outputs, 3)
    return nn.Sequential(SeparableConv(inputs, outputs, 3), nn.BatchNorm2d(outputs))


class XceptionBlock(nn.Module):
    """z = F(x) + skip(x). widths: channels before, between and after the convolutions; activate: ReLU before the first."""

    def __init__(self, widths: list[int], halve: bool, activate: bool = True, dense: bool = False):
        super().__init__()
        self.convs = nn.ModuleList(separable_norm(a, b, dense) for a, b in pairwise(widths))
        self.activate, self.halve = activate, halve
        same = not halve and widths[0] == widths[-1]
        self.skip = nn.Identity() if same else conv_norm(widths[0], widths[-1], 1, 2 if halve else 1)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        residual = self.convs[0](F.relu(x) if self.activate else x)
        for conv in self.convs[1:]:
            residual = conv(F.relu(residual, inplace=True))
        if self.halve:
            residual = F.max_pool2d(residual, 3, 2, padding=1)
        return residual.add_(self.skip(x))


class Xception(System):
    """Xception for classification. width: factor of every number of channels; middle: blocks of the middle flow.

    stem: `imagenet` (stride 2) or `small` (stride 1); dense: dense instead of separable convolutions.
    """

    answer = Classes

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        middle: int = 8,
        dense: bool = False,
        stem: Literal["imagenet", "small"] = "imagenet",
        in_channels: int = 3,
        image_size: int = 299,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        scaled = [max(1, round(n * width)) for n in (32, 64, 128, 256, 728, 1024, 1536, 2048)]
        first, second, low, medium, wide, last, separate, final = scaled
        small = stem == "small"
        padding = int(small)  # the paper's stem has none
        self.stem = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride, padding, bias=False), nn.BatchNorm2d(b))
            for a, b, stride in [(in_channels, first, 1 if small else 2), (first, second, 1)]
        )
        self.stages = nn.ModuleList(
            [
                XceptionBlock([second, low, low], halve=True, activate=False, dense=dense),
                XceptionBlock([low, medium, medium], halve=True, dense=dense),
                nn.Sequential(
                    XceptionBlock([medium, wide, wide], halve=True, dense=dense),
                    *(XceptionBlock([wide] * 4, halve=False, dense=dense) for _ in range(middle)),
                ),
                XceptionBlock([wide, wide, last], halve=True, dense=dense),
            ]
        )
        self.final = nn.ModuleList([separable_norm(last, separate, dense), separable_norm(separate, final, dense)])
        self.channels = [second, low, medium, wide, final]
        self.strides = [2**power for power in (range(5) if small else range(1, 6))]
        self.head = nn.Linear(final, num_classes) if num_classes else nn.Identity()
        kaiming_init(self)

    def _maps(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The stem's map, the sums that end the stages, and the final map; only the first and last are activated."""
        x = self.normalize(image)
        for conv in self.stem:
            x = F.relu(conv(x), inplace=True)
        maps = [x]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        for conv in self.final:
            x = F.relu(conv(x), inplace=True)
        return [*maps[:-1], x]

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """Activated maps, finest first, at `self.strides`, with `self.channels` channels."""
        first, *middle, last = self._maps(image)
        return [first, *(F.relu(x) for x in middle), last]

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, or pooled features where `num_classes` is 0."""
        return self.head(self._maps(image)[-1].mean((2, 3)))

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)
