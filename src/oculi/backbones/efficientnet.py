r"""EfficientNet: one baseline found by search, scaled in depth, width and resolution together.

The baseline B0 is made of inverted residuals with squeeze-and-excitation (MBConv); kernel, stride, channels and number of
blocks of each stage were found by architecture search. Deeper, wider or finer alone soon gives little, so all three grow
with one exponent phi,

    depth d = alpha^phi,  width w = beta^phi,  resolution r = gamma^phi,    alpha beta^2 gamma^2 = about 2

and the cost with (alpha beta^2 gamma^2)^phi = about 2^phi. A small grid search on the baseline gave alpha 1.2, beta 1.1,
gamma 1.15. (The search of the architecture found B0 alone.) `compound_scaling(phi)` gives the three factors; what was
published, `variant="b0"` to `"b7"`, rounds them.

    image                      batch x C x H x W
    stem                       3x3, 32 w channels, stride 2 (`stem_stride=1` for pictures up to 64 px), SiLU
    stages 1..7                MBConv, 16 to 320 w channels; 1, 2, 2, 3, 3, 4, 1 times d blocks; strides 2 to 32
    last                       1x1 to 1280 w channels, SiLU: the coarsest of `features`
    global average pooling     batch x 1280 w
    dropout, linear            batch x classes

Channels are rounded to multiples of 8, blocks up. Block l of L is skipped with probability `drop` l / L, l = 0..L-1, as in
torchvision. Differs from the paper in nothing known.

Tan, Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019, arXiv:1905.11946.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.nn.convolution import conv_norm, kaiming_init, round_channels
from oculi.nn.inverted_residual import InvertedResidual, silu
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses

# of B0's stages: expansion, kernel, stride of the first block, channels, blocks
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
# width, depth, resolution, dropout, as published
VARIANTS = {
    "b0": (1.0, 1.0, 224, 0.2),
    "b1": (1.0, 1.1, 240, 0.2),
    "b2": (1.1, 1.2, 260, 0.3),
    "b3": (1.2, 1.4, 300, 0.3),
    "b4": (1.4, 1.8, 380, 0.4),
    "b5": (1.6, 2.2, 456, 0.4),
    "b6": (1.8, 2.6, 528, 0.5),
    "b7": (2.0, 3.1, 600, 0.5),
}


def compound_scaling(
    phi: float, alpha: float = 1.2, beta: float = 1.1, gamma: float = 1.15
) -> tuple[float, float, float]:
    """Factors (depth, width, resolution) of the network that costs (alpha beta^2 gamma^2)^phi times the baseline.

    >>> [round(factor, 4) for factor in compound_scaling(2)]
    [1.44, 1.21, 1.3225]
    """
    if min(alpha, beta, gamma) < 1:
        raise ValueError(f"alpha, beta, gamma: expected at least 1 each, got {alpha}, {beta}, {gamma}")
    return alpha**phi, beta**phi, gamma**phi


def scaling_bases(cost: float = 2.0, step: float = 0.05, tolerance: float = 0.1) -> list[tuple[float, float, float]]:
    """The grid that the search goes over: all (alpha, beta, gamma) >= 1 with |alpha beta^2 gamma^2 - cost| <= tolerance."""
    if step <= 0:
        raise ValueError(f"step: expected a positive number, got {step}")
    values = [round(1 + step * k, 10) for k in range(int((cost + tolerance - 1) / step) + 1)]
    return [(a, b, c) for a, b, c in product(values, repeat=3) if abs(a * b**2 * c**2 - cost) <= tolerance]


class EfficientNet(System):
    """EfficientNet for classification; `features` gives the pyramid that dense systems use, `num_classes=0` pooled features.

    variant: a published network; width, depth, dropout, image_size: instead of the variant's own. drop: stochastic
    depth's largest rate. stem_stride: 2, or 1 for small pictures, which halves all strides. same_padding: as TensorFlow.
    """

    answer = Classes

    def __init__(
        self,
        num_classes: int = 1000,
        variant: Literal["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"] = "b0",
        width: float | None = None,
        depth: float | None = None,
        dropout: float | None = None,
        drop: float = 0.2,
        stem_stride: int = 2,
        in_channels: int = 3,
        image_size: int | None = None,
        same_padding: bool = False,
    ):
        if variant not in VARIANTS:
            raise ValueError(f"variant: expected one of {', '.join(VARIANTS)}, got {variant}")
        published = VARIANTS[variant]
        width, depth = width or published[0], depth or published[1]
        if min(width, depth) <= 0:
            raise ValueError(f"width, depth: expected positive numbers, got {width} and {depth}")
        size = image_size or published[2]
        super().__init__(InputContract(size, size, in_channels))
        self.stem = conv_norm(in_channels, round_channels(32 * width), 3, stem_stride, same=same_padding)
        levels, self.channels = _levels(width, depth, drop, same_padding)
        self.stages = nn.ModuleList(levels)
        self.strides = [stem_stride * 2**level for level in range(len(levels))]
        inputs, last = self.channels[-1], 4 * self.channels[-1]
        self.last = conv_norm(inputs, last, 1)
        self.channels[-1] = last
        rate = published[3] if dropout is None else dropout
        self.head = nn.Sequential(nn.Dropout(rate), nn.Linear(last, num_classes)) if num_classes else nn.Identity()
        kaiming_init(self)
        if variant in ("b5", "b6", "b7"):  # as published
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eps, module.momentum = 1e-3, 0.01

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The last map of each resolution, finest first, at `self.strides`, with `self.channels` channels."""
        x = silu(self.stem(self.normalize(image)))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        maps[-1] = silu(self.last(x))
        return maps

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, or pooled features where `num_classes` is 0."""
        return self.head(self.features(image)[-1].mean((2, 3)))

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)


def _levels(width: float, depth: float, drop: float, same: bool) -> tuple[list[nn.Sequential], list[int]]:
    """The blocks, one Sequential for each resolution, and the channels that each gives."""
    depths = [math.ceil(depth * blocks) for *_, blocks in STAGES]
    levels: list[nn.Sequential] = []
    channels: list[int] = []
    inputs, done = round_channels(32 * width), 0
    for (expansion, kernel, stride, outputs, _), blocks in zip(STAGES, depths, strict=True):
        if stride == 2 or not levels:
            levels.append(nn.Sequential())
            channels.append(0)
        for block in range(blocks):
            outputs_scaled, rate = round_channels(outputs * width), drop * done / sum(depths)
            levels[-1].append(
                InvertedResidual(
                    inputs, outputs_scaled, expansion, kernel, stride if block == 0 else 1, "silu",
                    squeeze=max(1, inputs // 4), drop=rate, same=same,
                )
            )  # fmt: skip
            inputs, done = outputs_scaled, done + 1
        channels[-1] = inputs
    return levels, channels
