r"""SE-ResNet: a ResNet whose every block reweights its channels by what the whole map holds.

The residual branch F of each block ends in a squeeze-and-excitation block, before the addition:

    z = ReLU(x + s(F(x)) * F(x)),     s(u) = sigmoid(W2 ReLU(W1 mean over positions of u)),    c -> c / r -> c

which costs next to nothing beside the convolutions and lets a position know what there is elsewhere. Everything else is the
ResNet that it holds: `backbones/resnet.py`.

    SE-ResNet-50       the defaults
    SE-ResNet-18       depths [2, 2, 2, 2], bottleneck False
    SE-ResNet-101      depths [3, 4, 23, 3]
    the plain ResNet   reduction 0

Hu, Shen, Sun: Squeeze-and-Excitation Networks, 2017, arXiv:1709.01507.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from oculi.backbones.resnet import ResidualBlock, ResNet
from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.nn.convolution import kaiming_init
from oculi.nn.squeeze_excitation import SqueezeExcitation
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses


class SEResNet(System):
    """ResNet with squeeze and excitation for classification; `features` gives the pyramid, `num_classes=0` pooled features.

    reduction: r, how many times narrower the hidden layer of each block is than its output (0 = no such layers).
    depths, bottleneck, width, stem, zero_init: the ResNet's.
    """

    answer = Classes

    def __init__(
        self,
        num_classes: int = 1000,
        depths: list[int] = [3, 4, 6, 3],  # noqa: B006 - read only; a list so that JSON gives it back
        bottleneck: bool = True,
        width: int = 64,
        stem: Literal["imagenet", "small"] = "imagenet",
        reduction: int = 16,
        in_channels: int = 3,
        image_size: int = 224,
        zero_init: bool = False,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if reduction < 0:
            raise ValueError(f"reduction: expected 0 (none) or more, got {reduction}")
        self.resnet = ResNet(num_classes, depths, bottleneck, width, stem, in_channels, image_size, zero_init)
        self.strides, self.channels = self.resnet.strides, self.resnet.channels
        for block in self.resnet.modules():
            if isinstance(block, ResidualBlock) and reduction:
                channels = block.convs[-1].get_parameter("1.weight").numel()
                gate = SqueezeExcitation(channels, max(1, channels // reduction))
                kaiming_init(gate)
                block.convs[-1] = nn.Sequential(*block.convs[-1].children(), gate)

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
