r"""VGG: nothing but 3x3 convolutions and 2x2 max pooling, deeper and deeper.

Two 3x3 convolutions see 5x5 pixels and three see 7x7, with fewer weights than one convolution of that size
(27 C^2 < 49 C^2) and a ReLU after each. Whenever pooling halves the sides the width doubles, up to eight times. It is
the plainest form of the general pattern, of which every number here is an argument:

    input -> [[conv -> ReLU] * N -> pool?] * M -> [linear -> ReLU] * K -> linear

    depths     N of each of the M stages        [1, 1, 2, 2, 2] is VGG-11 (A), [2, 2, 2, 2, 2] VGG-13 (B),
                                                [2, 2, 3, 3, 3] VGG-16 (D), [2, 2, 4, 4, 4] VGG-19 (E)
    pooled     which stages end in pooling      all
    hidden     the K fully connected widths     4096, 4096, each followed by dropout

    image      batch x C x H x W
    stages     w, 2w, 4w, 8w, 8w channels at strides 2, 4, 8, 16, 32
    averages   7 x 7 maps whatever the picture's size
    logits     batch x classes

Four fifths and more of the weights are in the first fully connected layer. Differs from the paper as torchvision does:
batch norm on request (`norm`, which keeps the convolutions' biases) and averaging to 7 x 7 for pictures of any size;
fully connected layers begin as torch's do.

Simonyan, Zisserman: Very deep convolutional networks for large-scale image recognition, 2014, arXiv:1409.1556.
"""

from __future__ import annotations

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.nn.convolution import average_to, conv_relu, kaiming_init
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses


class VGG(System):
    """VGG for classification; the defaults are VGG-16.

    depths: convolutions of each stage; width: channels of the first; pooled: whether each stage ends in max pooling
    (None: all do); pool: side of the maps that the fully connected layers see. `features` gives each stage's map,
    `num_classes=0` the mean of the last, without fully connected layers.
    """

    answer = Classes

    def __init__(
        self,
        num_classes: int = 1000,
        depths: list[int] = [2, 2, 3, 3, 3],  # noqa: B006 - read only; a list so that JSON gives it back
        width: int = 64,
        norm: bool = False,
        pooled: list[bool] | None = None,
        hidden: list[int] = [4096, 4096],  # noqa: B006
        pool: int = 7,
        dropout: float = 0.5,
        in_channels: int = 3,
        image_size: int = 224,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        self.pooled = [True] * len(depths) if pooled is None else pooled
        if len(self.pooled) != len(depths):
            raise ValueError(f"pooled: expected {len(depths)} values, one per stage, got {pooled}")
        if image_size < 2 ** sum(self.pooled):
            raise ValueError(f"image_size: {image_size} pixels are too few for {sum(self.pooled)} poolings")
        self.stages = nn.ModuleList()
        self.strides: list[int] = []
        self.channels: list[int] = []
        inputs, stride = in_channels, 1
        for index, depth in enumerate(depths):
            outputs = width * min(2**index, 8)
            sizes = [inputs] + [outputs] * depth
            self.stages.append(nn.Sequential(*(conv_relu(a, b, 3, norm=norm) for a, b in pairwise(sizes))))
            inputs, stride = outputs, stride * (2 if self.pooled[index] else 1)
            self.channels.append(outputs)
            self.strides.append(stride)
        self.pool, self.dropout = pool, dropout
        widths = [inputs * pool**2, *hidden] if num_classes else []
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1], num_classes) if num_classes else nn.Identity()
        kaiming_init(self)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The map of each stage after its pooling, finest first, at `self.strides`, with `self.channels` channels."""
        x, maps = self.normalize(image), []
        for stage, pooled in zip(self.stages, self.pooled, strict=True):
            x = stage(x)
            if pooled:
                x = F.max_pool2d(x, 2)
            maps.append(x)
        return maps

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, or pooled features where `num_classes` is 0."""
        x = self.features(image)[-1]
        if isinstance(self.head, nn.Identity):
            return x.mean((2, 3))
        x = average_to(x, self.pool).flatten(1)
        for layer in self.hidden:
            x = F.dropout(F.relu(layer(x), inplace=True), self.dropout, self.training)
        return self.head(x)

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)
