r"""AlexNet: five convolutions and three fully connected layers, the network with which deep learning won ImageNet.

    conv 1     11x11 stride 4, 64        max pooling     ReLU after every layer but the last; all pooling is 3x3 stride 2
    conv 2     5x5, 192                  max pooling     (windows overlap)
    conv 3-5   3x3, 384, 256, 256        max pooling
    averages   6 x 6 maps whatever the picture's size
    hidden     dropout, 4096, dropout, 4096
    head       one logit per class

    image      batch x C x H x W
    logits     batch x classes

It made three things usual: ReLU, whose gradient does not fade as tanh's does; dropout, without which the 58 million
weights of the fully connected layers learn the training set by heart; and training on shifted, mirrored and recoloured
copies. Max pooling is older. The paper draws two halves that meet only here and there because a GPU had 3 GB.

Differs from the paper: one tower, as in Krizhevsky's later report and torchvision, with its widths and without local
response normalisation; averaging to 6 x 6 for pictures of any size; He's initialisation. `stem="small"` is for pictures
of about 64 pixels: 5x5 stride 2.

Krizhevsky, Sutskever, Hinton: ImageNet classification with deep convolutional neural networks, 2012; Krizhevsky: One
weird trick for parallelizing convolutional neural networks, 2014, arXiv:1404.5997.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.nn.convolution import average_to, conv_relu, fan_in_init
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses

STEMS = {"imagenet": (11, 4), "small": (5, 2)}  # kernel, stride
SMALLEST = {"imagenet": 63, "small": 29}  # pixels that three poolings leave one of
POOLED = (0, 1, 4)  # the convolutions that max pooling follows


class AlexNet(System):
    """AlexNet for classification; the defaults are the one-tower network of torchvision.

    channels: of the five convolutions; hidden: of each fully connected layer before the head; pool: side of the maps
    that these see. `features` gives the maps after each max pooling, `num_classes=0` the mean of the last, without
    fully connected layers.
    """

    answer = Classes

    def __init__(
        self,
        num_classes: int = 1000,
        channels: list[int] = [64, 192, 384, 256, 256],  # noqa: B006 - read only; a list so that JSON gives it back
        hidden: list[int] = [4096, 4096],  # noqa: B006
        pool: int = 6,
        stem: Literal["imagenet", "small"] = "imagenet",
        dropout: float = 0.5,
        in_channels: int = 3,
        image_size: int = 224,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if len(channels) != 5:
            raise ValueError(f"channels: expected five numbers, one per convolution, got {channels}")
        if stem not in STEMS:
            raise ValueError(f"stem: expected imagenet or small, got {stem!r}")
        if image_size < SMALLEST[stem]:
            raise ValueError(f"image_size: expected at least {SMALLEST[stem]} pixels, got {image_size}")
        kernel, stride = STEMS[stem]
        self.convs = nn.ModuleList([conv_relu(in_channels, channels[0], kernel, stride, padding=2)])
        for (inputs, outputs), kernel in zip(pairwise(channels), (5, 3, 3, 3), strict=True):
            self.convs.append(conv_relu(inputs, outputs, kernel))
        self.strides = [stride * 2, stride * 4, stride * 8]
        self.channels = [channels[index] for index in POOLED]
        self.pool, self.dropout = pool, dropout
        sizes = [channels[-1] * pool**2, *hidden] if num_classes else []
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(sizes[-1], num_classes) if num_classes else nn.Identity()
        fan_in_init(self)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The maps after each max pooling, finest first, at `self.strides`, with `self.channels` channels."""
        x, maps = self.normalize(image), []
        for index, conv in enumerate(self.convs):
            x = conv(x)
            if index in POOLED:
                x = F.max_pool2d(x, 3, 2)
                maps.append(x)
        return maps

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, or pooled features where `num_classes` is 0."""
        x = self.features(image)[-1]
        if isinstance(self.head, nn.Identity):
            return x.mean((2, 3))
        x = average_to(x, self.pool).flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(F.dropout(x, self.dropout, self.training)), inplace=True)
        return self.head(x)

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)
