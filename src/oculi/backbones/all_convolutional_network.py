r"""All-Convolutional Network: is pooling needed? A convolution of larger stride does as well.

Max pooling is a fixed convolution-like layer, the maximum of each channel by itself, and stride is what makes maps
smaller. So every pooling layer is replaced by a 3x3 convolution of stride 2, which can learn what to keep and mixes the
channels, and fully connected layers by 1x1 convolutions with a mean over places:

    stage         3x3, 3x3 to w channels, ReLU after each; then, to halve the sides,
      strided       3x3 convolution of stride 2, ReLU                 All-CNN-C, the network of the title
      pool          3x3 max pooling of stride 2                       model C, what it is to be compared with
      merged        the second convolution gets the stride            Strided-CNN-C: smaller, a little worse
      conv_pool     a third 3x3 convolution, then max pooling         ConvPool-CNN-C: as many weights as All-CNN-C
    last stage    3x3, 1x1, ReLU after each
    classes       1x1 to one map per class; the class score is the mean of its map

    image         batch x C x H x W
    features      one map per stage before its downsampling, at strides 1, 2, 4 (times that of the first convolution)
    logits        batch x classes

The defaults are All-CNN-C for CIFAR-10 with its dropout, 0.2 of the picture and 0.5 after each downsampling. Differs
from the paper: padding everywhere, no ReLU on the class maps, batch norm on request (`norm`).

Springenberg, Dosovitskiy, Brox, Riedmiller: Striving for Simplicity: The All Convolutional Net, 2014, arXiv:1412.6806.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.nn.convolution import conv_relu, kaiming_init
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses


def downsampling_layers(width: int, kind: str, norm: bool) -> list[nn.Module]:
    """What ends a stage of `width` channels and halves its sides, the convolution before it apart."""
    pooling = nn.MaxPool2d(3, 2, padding=1)
    if kind == "pool":
        return [conv_relu(width, width, 3, norm=norm), pooling]
    if kind == "merged":
        return [conv_relu(width, width, 3, 2, norm=norm)]
    if kind == "strided":
        return [conv_relu(width, width, 3, norm=norm), conv_relu(width, width, 3, 2, norm=norm)]
    if kind == "conv_pool":
        return [conv_relu(width, width, 3, norm=norm), conv_relu(width, width, 3, norm=norm), pooling]
    raise ValueError(f"downsampling: expected strided, pool, merged or conv_pool, got {kind!r}")


class AllConvolutionalNetwork(System):
    """All-CNN-C for classification, and by `downsampling` the networks that the paper compares it with.

    widths: channels of each stage; stem_kernel, stem_stride: of the first convolution; dropout: after each
    downsampling; input_dropout: of the picture. `features` gives each stage's map, `num_classes=0` the mean of the last.
    """

    answer = Classes

    def __init__(
        self,
        num_classes: int = 10,
        widths: list[int] = [96, 192, 192],  # noqa: B006 - read only; a list so that JSON gives it back
        downsampling: Literal["strided", "pool", "merged", "conv_pool"] = "strided",
        stem_kernel: int = 3,
        stem_stride: int = 1,
        dropout: float = 0.5,
        input_dropout: float = 0.2,
        norm: bool = False,
        in_channels: int = 3,
        image_size: int = 32,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        self.stages, self.downs = nn.ModuleList(), nn.ModuleList()
        self.strides = [stem_stride * 2**index for index in range(len(widths))]
        self.channels = widths
        inputs, kernel, stride = in_channels, stem_kernel, stem_stride
        for width in widths[:-1]:
            rest = downsampling_layers(width, downsampling, norm)
            keep = len(rest) - 1
            self.stages.append(nn.Sequential(conv_relu(inputs, width, kernel, stride, norm=norm), *rest[:keep]))
            self.downs.append(rest[-1])
            inputs, kernel, stride = width, 3, 1
        last = widths[-1]
        pointwise = conv_relu(last, last, 1, norm=norm)
        self.stages.append(nn.Sequential(conv_relu(inputs, last, kernel, stride, norm=norm), pointwise))
        self.dropout, self.input_dropout = dropout, input_dropout
        self.head = nn.Conv2d(last, num_classes, 1) if num_classes else nn.Identity()
        kaiming_init(self)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """One map per stage, finest first, at `self.strides`, with `self.channels` channels."""
        x = F.dropout(self.normalize(image), self.input_dropout, self.training)
        maps = [self.stages[0](x)]
        for down, stage in zip(self.downs, self.stages[1:], strict=True):
            maps.append(stage(F.dropout(down(maps[-1]), self.dropout, self.training)))
        return maps

    def class_maps(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes h2 w2"]:
        """One map per class, whose mean is the class score."""
        return self.head(self.features(image)[-1])

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, or pooled features where `num_classes` is 0."""
        return self.class_maps(image).mean((2, 3))

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)
