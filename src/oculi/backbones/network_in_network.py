r"""Network in Network: a small network slides over the picture in place of a linear filter.

A convolution is a linear model of its window; where the thing to be found is not linear in the pixels, a perceptron of
several layers does better. Applied at every place it is a convolution followed by 1x1 convolutions, which mix the
channels of one pixel:

    mlpconv    z = ReLU(W2 ReLU(W1 ReLU(conv(x))))          W: 1x1, the same linear layer at every pixel
    pooling    3x3, stride 2, between the blocks: maximum after the first, average after the second
    classes    the last block ends in one map per class, and the class score is the mean of its map:
               y_c = mean over places of m_c

So there is no fully connected layer, nothing to overfit with, and m_c shows where the network sees class c.

    image      batch x C x H x W
    features   one map per block, at strides 1, 2, 4 (times that of the first convolution)
    logits     batch x classes

The defaults are the network for CIFAR-10. The one for ImageNet is `num_classes=1000, stem_stride=4, image_size=224,
kernels=[11, 5, 3, 3], widths=[[96, 96, 96], [256, 256, 256], [384, 384, 384], [1024, 1024]],
pooling=["max", "max", "max"]`. Differs from the published one: no ReLU on the class maps, so that evidence can speak
against a class too, and a class that nothing speaks for can still learn; batch norm on request (`norm`).

Lin, Chen, Yan: Network In Network, 2013, arXiv:1312.4400.
"""

from __future__ import annotations

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.nn.convolution import conv_relu, kaiming_init
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses


def downsample(x: Float[Tensor, "b c h w"], kind: str) -> Float[Tensor, "b c h2 w2"]:
    """The maximum or the average of 3x3 windows at every second place; windows at the border count what is there."""
    if kind == "max":
        return F.max_pool2d(x, 3, 2, padding=1)
    return F.avg_pool2d(x, 3, 2, padding=1, count_include_pad=False)


class NetworkInNetwork(System):
    """Network in Network for classification.

    widths: channels of each block's convolution and of the 1x1 convolutions behind it; kernels: of each block's
    convolution; pooling: `max` or `average`, between the blocks; dropout: after each pooling. `features` gives each
    block's map, `num_classes=0` the mean of the last.
    """

    answer = Classes

    def __init__(
        self,
        num_classes: int = 10,
        widths: list[list[int]] = [[192, 160, 96], [192, 192, 192], [192, 192]],  # noqa: B006 - read only
        kernels: list[int] = [5, 5, 3],  # noqa: B006
        pooling: list[str] = ["max", "average"],  # noqa: B006
        stem_stride: int = 1,
        dropout: float = 0.5,
        norm: bool = False,
        in_channels: int = 3,
        image_size: int = 32,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if len(kernels) != len(widths):
            raise ValueError(f"kernels: expected {len(widths)} numbers, one per block, got {kernels}")
        if len(pooling) != len(widths) - 1 or set(pooling) - {"max", "average"}:
            raise ValueError(f"pooling: expected {len(widths) - 1} times max or average, got {pooling}")
        self.blocks = nn.ModuleList()
        self.strides = [stem_stride * 2**index for index in range(len(widths))]
        self.channels = [block[-1] for block in widths]
        inputs = in_channels
        for index, (block, kernel) in enumerate(zip(widths, kernels, strict=True)):
            first = conv_relu(inputs, block[0], kernel, 1 if index else stem_stride, norm=norm)
            pointwise = (conv_relu(a, b, 1, norm=norm) for a, b in pairwise(block))
            self.blocks.append(nn.Sequential(first, *pointwise))
            inputs = block[-1]
        self.pooling, self.dropout = pooling, dropout
        self.head = nn.Conv2d(inputs, num_classes, 1) if num_classes else nn.Identity()
        kaiming_init(self)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """One map per block, finest first, at `self.strides`, with `self.channels` channels."""
        maps = [self.blocks[0](self.normalize(image))]
        for block, kind in zip(self.blocks[1:], self.pooling, strict=True):
            maps.append(block(F.dropout(downsample(maps[-1], kind), self.dropout, self.training)))
        return maps

    def class_maps(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes h2 w2"]:
        """One map per class, whose mean is the class score: high where the network sees that class."""
        return self.head(self.features(image)[-1])

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, or pooled features where `num_classes` is 0."""
        return self.class_maps(image).mean((2, 3))

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)
