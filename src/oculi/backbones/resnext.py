r"""ResNeXt: a residual block that splits, transforms and merges; how many branches, the cardinality, is its own dimension.

A ResNet's bottleneck becomes C branches of one shape, as in Inception but all alike, whose outputs are added:

    z = ReLU(x + sum over i = 1..C of T_i(x)),     T_i = 1x1 to d channels, 3x3 among them, 1x1 to the block's outputs

which is the same function as one bottleneck of width C d whose 3x3 convolution has C groups (figure 3 of the paper), and
is computed so.

    stem      7x7 stride 2, 3x3 max pool stride 2      (`stem="small"`: one 3x3, for pictures up to 64 px)
    stage s   (from 0) bottleneck width C d 2^s, outputs 4 w 2^s, stride 4 2^s   (small: 2^s)
    head      global average pooling, linear

    ResNeXt-50 32x4d       the defaults
    ResNeXt-101 32x8d      depths [3, 4, 23, 3], group_width 8
    ResNeXt-101 64x4d      depths [3, 4, 23, 3], cardinality 64

Each convolution is followed by batch norm, whose last scale in a block starts at 0 with `zero_init` (Goyal 2017,
1706.02677). Added to the paper: branches skipped at random in training (`stochastic_depth`), off unless asked for.

Xie, Girshick, Dollár, Tu, He: Aggregated Residual Transformations for Deep Neural Networks, 2016, arXiv:1611.05431.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.nn.convolution import conv_norm, kaiming_init
from oculi.nn.stochastic_depth import StochasticDepth, drop_rates
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses


class AggregatedBlock(nn.Module):
    """z = ReLU(skip(x) + expand(transform(reduce(x)))), the transform being a 3x3 convolution in `cardinality` groups."""

    def __init__(
        self,
        inputs: int,
        width: int,
        outputs: int,
        stride: int = 1,
        cardinality: int = 32,
        zero_init: bool = False,
        drop_rate: float = 0.0,
    ):
        super().__init__()
        self.reduce = conv_norm(inputs, width, 1)
        self.transform = conv_norm(width, width, 3, stride, cardinality)
        self.expand = conv_norm(width, outputs, 1)
        self.skip = conv_norm(inputs, outputs, 1, stride) if stride != 1 or inputs != outputs else nn.Identity()
        self.drop = StochasticDepth(drop_rate)
        if zero_init:
            nn.init.zeros_(self.expand.get_parameter("1.weight"))

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        residual = F.relu(self.reduce(x), inplace=True)
        residual = F.relu(self.transform(residual), inplace=True)
        return F.relu(self.skip(x) + self.drop(self.expand(residual)), inplace=True)


class ResNeXt(System):
    """ResNeXt for classification; `features` gives the pyramid that dense systems use, `num_classes=0` pooled features.

    depths: blocks per stage. cardinality, group_width: C branches of d channels in the first stage. width: a quarter of
    the first stage's outputs. stochastic_depth: rate at which the last block is skipped in training.
    """

    answer = Classes

    def __init__(
        self,
        num_classes: int = 1000,
        depths: list[int] = [3, 4, 6, 3],  # noqa: B006 - read only; a list so that JSON gives it back
        cardinality: int = 32,
        group_width: int = 4,
        width: int = 64,
        stem: Literal["imagenet", "small"] = "imagenet",
        in_channels: int = 3,
        image_size: int = 224,
        zero_init: bool = False,
        stochastic_depth: float = 0.0,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if cardinality < 1 or group_width < 1:
            raise ValueError(
                f"cardinality, group_width: expected at least 1 branch of 1 channel, got {cardinality} of {group_width}"
            )
        small = stem == "small"
        self.stem = conv_norm(in_channels, width, 3 if small else 7, 1 if small else 2)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        self.strides = [(1 if small else 4) * 2**stage for stage in range(len(depths))]
        self.channels = [4 * width * 2**stage for stage in range(len(depths))]
        rates = iter(drop_rates(sum(depths), stochastic_depth))
        self.stages, inputs = nn.ModuleList(), width
        for stage, (depth, outputs) in enumerate(zip(depths, self.channels, strict=True)):
            inner, blocks = cardinality * group_width * 2**stage, []
            for block in range(depth):
                stride = 2 if block == 0 and stage > 0 else 1
                blocks.append(AggregatedBlock(inputs, inner, outputs, stride, cardinality, zero_init, next(rates)))
                inputs = outputs
            self.stages.append(nn.Sequential(*blocks))
        self.head = nn.Linear(inputs, num_classes) if num_classes else nn.Identity()
        kaiming_init(self)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """One map per stage, finest first, at `self.strides`, with `self.channels` channels."""
        maps = [self.pool(F.relu(self.stem(self.normalize(image)), inplace=True))]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, or pooled features where `num_classes` is 0."""
        return self.head(self.features(image)[-1].mean((2, 3)))

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)
