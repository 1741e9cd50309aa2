r"""DenseNet: every layer of a block sees all maps that came before it in the block.

    x_i = [x_0, H_1(x_0), ..., H_i(x_{i-1})]           concatenated along channels, which only ever grows
    H   = conv 3x3 . ReLU . norm . conv 1x1 . ReLU . norm          the 1x1 (bottleneck) to 4 K channels, the 3x3 to K

K is the growth rate: layer i takes k_0 + K (i - 1) channels and adds K. Each layer stays narrow because nothing has to be
carried along; gradients reach every layer directly; maps are reused instead of computed again. Between the blocks

    transition(x) = conv 1x1 (2x2 average (ReLU (norm x)))         halves the resolution and (compression 0.5) the channels

    image                      batch x C x H x W
    stem                       7x7 stride 2, 3x3 max pool stride 2      (`medium`: only 3x3 stride 2; `small`: 3x3 stride 1)
    blocks 1..4                strides 4, 8, 16, 32 (medium: 2, 4, 8, 16; small: 1, 2, 4, 8)
    global average pooling     batch x features, after a last norm and ReLU
    linear                     batch x classes

    DenseNet-121    the defaults
    DenseNet-169    depths [6, 12, 32, 32]          DenseNet-201    depths [6, 12, 48, 32]
    DenseNet-161    depths [6, 12, 36, 24], growth 48, stem_channels 96
    CIFAR, k = 12   stem `small`, depths [16, 16, 16], growth 12, stem_channels 24 (DenseNet-BC, 100 layers);
                    depths [12, 12, 12], stem_channels 16, bottleneck 0, compression 1 (without B and C, 40 layers)

The order of average and 1x1 convolution in a transition is exchanged: both are linear and act on different axes, so the
result is the paper's at a quarter of the multiply-adds. Maps are joined once per layer, not once more at a block's end.

Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, 2016, arXiv:1608.06993.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.nn.convolution import conv_norm, kaiming_init
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses


class NormConv(nn.Module):
    """Convolution of the normalised, activated map: the order in which a norm is free to weigh what is concatenated."""

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h w"]:
        return self.conv(F.relu(self.norm(x), inplace=True))


class DenseBlock(nn.Module):
    """`layers` layers, each adding `growth` channels to what it was given; the resolution stays.

    bottleneck: width of the 1x1 convolutions in units of the growth, 0 for none; dropout: of each layer's new maps.
    """

    def __init__(self, inputs: int, layers: int, growth: int, bottleneck: int = 4, dropout: float = 0.0):
        super().__init__()
        self.layers = nn.ModuleList()
        for given in range(inputs, inputs + layers * growth, growth):
            between = bottleneck * growth
            reduce = [NormConv(given, between, 1)] if bottleneck else []
            self.layers.append(nn.Sequential(*reduce, NormConv(between or given, growth, 3)))
        self.outputs = inputs + layers * growth
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h w"]:
        for layer in self.layers:
            x = torch.cat([x, self.dropout(layer(x))], 1)
        return x


class Transition(nn.Module):
    """Half the resolution, `outputs` channels."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        return self.conv(F.avg_pool2d(F.relu(self.norm(x), inplace=True), 2))


class DenseNet(System):
    """DenseNet for classification. depths: layers of each block; growth: channels that each layer adds.

    compression: share of the channels that a transition keeps; bottleneck and dropout as in DenseBlock.
    """

    answer = Classes

    def __init__(
        self,
        num_classes: int = 1000,
        depths: list[int] = [6, 12, 24, 16],  # noqa: B006 - read only; a list so that JSON gives it back
        growth: int = 32,
        stem_channels: int = 64,
        bottleneck: int = 4,
        compression: float = 0.5,
        dropout: float = 0.0,
        stem: Literal["imagenet", "medium", "small"] = "imagenet",
        in_channels: int = 3,
        image_size: int = 224,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if not 0 < compression <= 1:
            raise ValueError(f"compression: expected a share above 0 and up to 1, got {compression}")
        if stem == "imagenet":
            start = conv_norm(in_channels, stem_channels, 7, 2)
            self.stem = nn.Sequential(*start, nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1))
        else:  # bare: the first layer of a block begins with a norm
            stride = 1 if stem == "small" else 2
            self.stem = nn.Sequential(nn.Conv2d(in_channels, stem_channels, 3, stride, padding=1, bias=False))
        reduction = {"imagenet": 4, "medium": 2, "small": 1}[stem]
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        self.strides, self.channels, inputs = [], [], stem_channels
        for index, depth in enumerate(depths):
            block = DenseBlock(inputs, depth, growth, bottleneck, dropout)
            self.blocks.append(block)
            self.strides.append(reduction * 2**index)
            self.channels.append(block.outputs)
            if index < len(depths) - 1:
                inputs = int(block.outputs * compression)
                self.transitions.append(Transition(block.outputs, inputs))
        self.norm = nn.BatchNorm2d(self.channels[-1])
        self.head = nn.Linear(self.channels[-1], num_classes) if num_classes else nn.Identity()
        kaiming_init(self)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """What each block gave, finest first, at `self.strides`, with `self.channels` channels; the last activated."""
        x, maps = self.stem(self.normalize(image)), []
        for block, transition in zip(self.blocks, [*self.transitions, self._finish], strict=True):
            x = block(x)
            maps.append(x)
            x = transition(x)
        return [*maps[:-1], x]

    def _finish(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return F.relu(self.norm(x), inplace=True)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, or pooled features where `num_classes` is 0."""
        return self.head(self.features(image)[-1].mean((2, 3)))

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)
