r"""ConvNeXt: a ResNet rebuilt, step by step, with what transformers had shown; still nothing but convolutions.

A block looks around with a 7x7 convolution of each channel by itself, then thinks in every pixel by itself with a
transformer's MLP; one layer norm, one GELU, and a residual that begins near zero:

    z = x + γ · W2 GELU(W1 LN(depthwise_7x7(x)))        W1: d -> 4d, W2: 4d -> d (inverted bottleneck)

γ (layer scale) holds one number per channel, 1e-6 at first; LN is taken over the channels of a pixel.

    image                      batch x C x H x W
    stem                       4x4 stride 4 (`patch`), LN: the picture is cut into patches
    stages 1..4                strides 4, 8, 16, 32, `widths` channels, `depths` blocks; between them LN, 2x2 stride 2
    global average pooling     batch x features, LN
    linear                     batch x classes

                     depths         widths                   stochastic_depth (ImageNet-1k)
    ConvNeXt-T       3, 3, 9, 3     96, 192, 384, 768        0.1
    ConvNeXt-S       3, 3, 27, 3    96, 192, 384, 768        0.4
    ConvNeXt-B       3, 3, 27, 3    128, 256, 512, 1024      0.5
    ConvNeXt-L       3, 3, 27, 3    192, 384, 768, 1536      0.5

The defaults are ConvNeXt-T. Maps lie in memory with their channels last, so that the norm and the MLP need no copy.
Differs from the paper in the initial weights alone: torch's own, whose deviation 0.58 / sqrt(inputs) is the paper's 0.02
at 768 channels, and not too little for narrow networks, which it keeps from learning for their first hundreds of steps.

Liu, Mao, Wu, Feichtenhofer, Darrell, Xie: A ConvNet for the 2020s, 2022, arXiv:2201.03545.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.nn.stochastic_depth import StochasticDepth, drop_rates
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every pixel."""

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """z = x + γ · MLP(LN(depthwise(x)))."""

    def __init__(self, width: int, kernel: int, layer_scale: float, drop: float):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale = nn.Parameter(torch.full((width,), layer_scale))
        self.drop = StochasticDepth(drop)

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        residual = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return (self.drop(residual) * self.scale).permute(0, 3, 1, 2).add_(x)


class ConvNeXt(System):
    """ConvNeXt for classification; `features` gives the pyramid that dense systems use, `num_classes=0` pooled features.

    depths, widths: blocks and channels per stage. patch: side of the stem's patches, the stride of the first stage.
    layer_scale: what γ begins with. stochastic_depth: rate at which the last block is skipped in training.
    eps: of the norm before the head, 1e-12 in some published weights.
    """

    answer = Classes

    def __init__(
        self,
        num_classes: int = 1000,
        depths: list[int] = [3, 3, 9, 3],  # noqa: B006 - read only; a list so that JSON gives it back
        widths: list[int] = [96, 192, 384, 768],  # noqa: B006
        patch: int = 4,
        kernel: int = 7,
        layer_scale: float = 1e-6,
        stochastic_depth: float = 0.0,
        in_channels: int = 3,
        image_size: int = 224,
        eps: float = 1e-6,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if len(depths) != len(widths):
            raise ValueError(f"widths: expected one for each of {len(depths)} depths, got {len(widths)}")
        if kernel % 2 == 0:
            raise ValueError(f"kernel: expected an odd number, got {kernel}")
        self.strides = [patch * 2**index for index in range(len(depths))]
        self.channels = list(widths)
        if image_size < self.strides[-1]:
            raise ValueError(f"image_size: expected at least {self.strides[-1]} pixels, got {image_size}")
        self.entries, self.stages = nn.ModuleList(), nn.ModuleList()
        rates = iter([0.0, *drop_rates(sum(depths) - 1, stochastic_depth)])
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if index == 0:
                entry = [nn.Conv2d(in_channels, width, patch, patch), ChannelNorm(width, eps=1e-6)]
            else:
                inputs = widths[index - 1]
                entry = [ChannelNorm(inputs, eps=1e-6), nn.Conv2d(inputs, width, 2, 2)]
            self.entries.append(nn.Sequential(*entry))
            blocks = (ConvNeXtBlock(width, kernel, layer_scale, next(rates)) for _ in range(depth))
            self.stages.append(nn.Sequential(*blocks))
        self.norm = nn.LayerNorm(widths[-1], eps=eps)
        self.head = nn.Linear(widths[-1], num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.zeros_(module.get_parameter("bias"))

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """One map per stage, finest first, at `self.strides`, with `self.channels` channels."""
        x = self.normalize(image).contiguous(memory_format=torch.channels_last)
        maps = []
        for entry, stage in zip(self.entries, self.stages, strict=True):
            x = stage(entry(x))
            maps.append(x)
        return maps

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, or pooled features where `num_classes` is 0."""
        return self.head(self.norm(self.features(image)[-1].mean((2, 3))))

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)
