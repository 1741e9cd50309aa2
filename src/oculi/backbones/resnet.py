r"""ResNet: residual blocks, so that depth does not hurt.

A block learns the residual F of the identity,

    z = ReLU(F(x) + x)        basic: 3x3, 3x3;  bottleneck: 1x1, 3x3 (stride here), 1x1 with four times the width

so doing nothing is easy to learn (F = 0) and the addition hands gradients back unchanged. Where a stage halves the
resolution or changes the width, a strided 1x1 convolution stands on the skip path.

    image                      batch x C x H x W
    stem                       7x7 stride 2, 3x3 max pool stride 2   (`stem="small"`: one 3x3, for pictures up to 64 px;
                               `stem="deep"`: three 3x3 in place of the 7x7, and averages of 2x2 in place of the stride
                               on skip paths: ResNet-D of He et al., 2018, arXiv:1812.01187)
    stages 1..4                strides 4, 8, 16, 32 (small: 1, 2, 4, 8), widths w, 2w, 4w, 8w (bottleneck: four times that)
    global average pooling     batch x features
    linear                     batch x classes

Every convolution is followed by batch norm; there is no dropout. Differs from the paper as torchvision does: the stride
of a bottleneck sits on its 3x3 convolution. `zero_init` starts each block as the identity (Goyal 2017, 1706.02677).

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2015, arXiv:1512.03385.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.nn.convolution import conv_norm, kaiming_init
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses


class ResidualBlock(nn.Module):
    """z = ReLU(F(x) + skip(x)), F being two 3x3 convolutions or a 1x1-3x3-1x1 bottleneck."""

    def __init__(
        self, inputs: int, width: int, stride: int, bottleneck: bool, zero_init: bool = False, average: bool = False
    ):
        super().__init__()
        outputs = width * 4 if bottleneck else width
        if bottleneck:
            sizes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        else:
            sizes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        self.convs = nn.ModuleList(conv_norm(*size) for size in sizes)
        self.skip = conv_norm(inputs, outputs, 1, stride) if stride != 1 or inputs != outputs else nn.Identity()
        if average and stride != 1:
            self.skip = nn.Sequential(nn.AvgPool2d(stride, ceil_mode=True), *conv_norm(inputs, outputs, 1))
        if zero_init:
            last = self.convs[-1].get_parameter("1.weight")
            nn.init.zeros_(last)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        residual = x
        for conv in self.convs[:-1]:
            residual = F.relu(conv(residual), inplace=True)
        return F.relu(self.convs[-1](residual).add_(self.skip(x)), inplace=True)


class ResNet(System):
    """ResNet for classification; `features` gives the pyramid that dense systems use, `num_classes=0` pooled features.

    depths: blocks per stage, [2, 2, 2, 2] is ResNet-18, [3, 4, 6, 3] with `bottleneck` ResNet-50.
    width: channels of the first stage. stem: `imagenet` (stride 4), `small` (stride 1) or `deep` (stride 4, ResNet-D).
    """

    answer = Classes

    def __init__(
        self,
        num_classes: int = 1000,
        depths: list[int] = [2, 2, 2, 2],  # noqa: B006 - read only; a list so that JSON gives it back
        bottleneck: bool = False,
        width: int = 64,
        stem: Literal["imagenet", "small", "deep"] = "imagenet",
        in_channels: int = 3,
        image_size: int = 224,
        zero_init: bool = False,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        small, deep = stem == "small", stem == "deep"
        self.stem = conv_norm(in_channels, width, 3 if small else 7, 1 if small else 2)
        if deep:
            sizes = [(in_channels, width // 2, 3, 2), (width // 2, width // 2, 3, 1), (width // 2, width, 3, 1)]
            first, second, third = (conv_norm(*size) for size in sizes)
            self.stem = nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True), third)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        self.stages = nn.ModuleList()
        self.strides: list[int] = []
        self.channels: list[int] = []
        inputs, reduction = width, 1 if small else 4
        for index, depth in enumerate(depths):
            stage_width, stride = width * 2**index, 1 if index == 0 else 2
            blocks = []
            for block in range(depth):
                own = stride if block == 0 else 1
                blocks.append(ResidualBlock(inputs, stage_width, own, bottleneck, zero_init, deep))
                inputs = stage_width * (4 if bottleneck else 1)
            self.stages.append(nn.Sequential(*blocks))
            reduction *= stride
            self.strides.append(reduction)
            self.channels.append(inputs)
        self.head = nn.Linear(inputs, num_classes) if num_classes else nn.Identity()
        kaiming_init(self)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """One map per stage, finest first, at `self.strides`, with `self.channels` channels."""
        x = self.pool(F.relu(self.stem(self.normalize(image)), inplace=True))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, or pooled features where `num_classes` is 0."""
        return self.head(self.features(image)[-1].mean((2, 3)))

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)
