r"""MobileNetV2: inverted residuals with linear bottlenecks.

MobileNet's separable convolutions, but what travels between blocks is narrow (a bottleneck) and skips are between those
narrow maps; inside a block the channels are widened by `expansion` t for the depthwise filter to work on,

    z = x + P(D(E(x)))      E: 1x1 to t times the channels, ReLU6;  D: depthwise 3x3, ReLU6;  P: 1x1 back, linear

P has no activation: ReLU on few channels loses information that on many survives. Where a block changes the stride or
the number of channels there is no skip.

    image                      batch x C x H x W
    stem                       3x3, 32 channels, stride 2 (`stem_stride=1` for pictures up to 64 px)
    stages 1..7                16, 24, 32, 64, 96, 160, 320 channels; 1, 2, 3, 4, 3, 3, 1 blocks; strides 2 to 32
    last                       1x1 to 1280 channels (not thinned below width 1), ReLU6: the coarsest of `features`
    global average pooling     batch x 1280
    dropout, linear            batch x classes

The published MobileNetV2 1.0, 1.4, 0.75, 0.5, 0.35 are `width=1.0` and so on. Differs from the paper in nothing known.

Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2, 2018, arXiv:1801.04381.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.nn.convolution import conv_norm, kaiming_init, round_channels
from oculi.nn.inverted_residual import InvertedResidual, relu6
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses

STAGES = ((16, 1), (24, 2), (32, 2), (64, 2), (96, 1), (160, 2), (320, 1))  # channels, stride of the first block


class MobileNetV2(System):
    """MobileNetV2 for classification; `features` gives the pyramid that dense systems use, `num_classes=0` pooled features.

    width: factor of all channels. depths: blocks per stage; a shorter list leaves out the last stages. stem_stride: 2, or
    1 for small pictures, which halves all strides. same_padding: as TensorFlow.
    """

    answer = Classes

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        depths: list[int] = [1, 2, 3, 4, 3, 3, 1],  # noqa: B006 - read only; a list so that JSON gives it back
        expansion: float = 6,
        dropout: float = 0.2,
        stem_stride: int = 2,
        in_channels: int = 3,
        image_size: int = 224,
        same_padding: bool = False,
    ):
        if width <= 0:
            raise ValueError(f"width: expected a positive number, got {width}")
        if not 1 <= len(depths) <= len(STAGES) or min(depths) < 1:
            raise ValueError(f"depths: expected the blocks, at least 1, of up to {len(STAGES)} stages, got {depths}")
        super().__init__(InputContract(image_size, image_size, in_channels))
        inputs, last = round_channels(32 * width), round_channels(1280 * max(1.0, width))
        self.stem = conv_norm(in_channels, inputs, 3, stem_stride, same=same_padding)
        levels: list[nn.Sequential] = []  # what has one resolution
        self.channels: list[int] = []
        for depth, (channels, stride) in zip(depths, STAGES, strict=False):
            if stride == 2 or not levels:
                levels.append(nn.Sequential())
                self.channels.append(0)
            for block in range(depth):
                outputs, widening = round_channels(channels * width), expansion if len(levels) > 1 else 1
                own = stride if block == 0 else 1
                levels[-1].append(InvertedResidual(inputs, outputs, widening, 3, own, same=same_padding))
                inputs = outputs
            self.channels[-1] = inputs
        self.channels[-1] = last
        self.strides = [stem_stride * 2**level for level in range(len(levels))]
        self.stages = nn.ModuleList(levels)
        self.last = conv_norm(inputs, last, 1)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes)) if num_classes else nn.Identity()
        kaiming_init(self)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The last map of each resolution, finest first, at `self.strides`, with `self.channels` channels."""
        x = relu6(self.stem(self.normalize(image)))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        maps[-1] = relu6(self.last(x))
        return maps

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, or pooled features where `num_classes` is 0."""
        return self.head(self.features(image)[-1].mean((2, 3)))

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)
