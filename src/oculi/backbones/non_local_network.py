r"""Non-local network: blocks in a ResNet in which every position looks at every other one.

A convolution sees its neighbourhood; far apart things meet only after many of them. A non-local block answers at once, for
each position i of a map with N positions, by a mean over all positions j weighted by how well they match:

    y_i = 1/C(x) sum_j f(x_i, x_j) g(x_j)           f(x_i, x_j) = exp(theta(x_i)^T phi(x_j)),   C(x) = sum_j f(x_i, x_j)
    z_i = W_z y_i + x_i                             theta, phi, g: 1x1 convolutions to half the channels

So f / C is a softmax and the block self-attention over positions, without heads and without the factor 1/sqrt(d). W_z, a
1x1 convolution, ends in batch norm whose scale starts at 0: the block begins as the identity, and can be put into a trained
network. Its cost grows as N^2, which is why it stands late in the network. Everything else is the ResNet that it holds.

    ResNet-50, 1 block      the defaults: before the last block of the third stage (res4)
    ResNet-50, 5 blocks     non_local [[1, 1], [1, 3], [2, 1], [2, 3], [2, 5]]: after every second block of res3 and res4
    the plain ResNet        non_local []

Of the paper's choices for f this is the embedded Gaussian; its subsampling of phi and g is left out.

The recipe asks whether two objects far apart have the same colour (`data/same_colour.py`). Without the block the network
ends in a mean over positions, of which none has seen both.

Wang, Girshick, Gupta, He: Non-local Neural Networks, 2017, arXiv:1711.07971.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.backbones.resnet import ResNet
from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.nn.convolution import kaiming_init
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses


class NonLocalBlock(nn.Module):
    """z = x + W_z(softmax(scale theta(x)^T phi(x)) g(x)) over all positions; `width`: channels of theta, phi and g."""

    def __init__(self, channels: int, width: int, scale: float = 1.0):
        super().__init__()
        self.theta = nn.Conv2d(channels, width, 1)
        self.phi = nn.Conv2d(channels, width, 1)
        self.g = nn.Conv2d(channels, width, 1)
        self.out = nn.Sequential(nn.Conv2d(width, channels, 1), nn.BatchNorm2d(channels))
        self.scale = scale
        nn.init.zeros_(self.out.get_parameter("1.weight"))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        query, key, value = (conv(x).flatten(2).transpose(1, 2) for conv in (self.theta, self.phi, self.g))
        mixed = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=self.scale)
        return x + self.out(mixed[:, 0].transpose(1, 2).unflatten(2, x.shape[-2:]))


class NonLocalNetwork(System):
    """ResNet with non-local blocks for classification; `features` gives the pyramid, `num_classes=0` pooled features.

    non_local: pairs (stage, block), counted from 0: a non-local block follows each. The rest are the ResNet's arguments.
    """

    answer = Classes

    def __init__(
        self,
        num_classes: int = 1000,
        depths: list[int] = [3, 4, 6, 3],  # noqa: B006 - read only; a list so that JSON gives it back
        bottleneck: bool = True,
        width: int = 64,
        stem: Literal["imagenet", "small"] = "imagenet",
        non_local: list[list[int]] = [[2, 4]],  # noqa: B006
        in_channels: int = 3,
        image_size: int = 224,
        zero_init: bool = False,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        self.resnet = ResNet(num_classes, depths, bottleneck, width, stem, in_channels, image_size, zero_init)
        self.strides, self.channels = self.resnet.strides, self.resnet.channels
        for stage, block in sorted(non_local, reverse=True):
            if not (0 <= stage < len(depths) and 0 <= block < depths[stage]):
                raise ValueError(f"non_local: expected [stage, block] within depths {depths}, got [{stage}, {block}]")
            channels = self.channels[stage]
            added = NonLocalBlock(channels, max(1, channels // 2))
            kaiming_init(added)
            blocks = list(self.resnet.stages[stage].children())
            self.resnet.stages[stage] = nn.Sequential(*blocks[: block + 1], added, *blocks[block + 1 :])

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """One map per stage, finest first, at `self.strides`, with `self.channels` channels."""
        return self.resnet.features(self.normalize(image))

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, or pooled features where `num_classes` is 0."""
        return self.resnet(self.normalize(image))

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)
