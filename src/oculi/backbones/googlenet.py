r"""GoogLeNet (Inception v1): several kernel sizes side by side, made cheap by 1x1 convolutions.

An inception module sees its input at several scales at once and lets the next one choose,

    y = [ 1x1(x) | 3x3(1x1(x)) | 5x5(1x1(x)) | 1x1(maxpool 3x3(x)) ]      concatenated along channels

the 1x1 convolutions before the large kernels (reductions) and after the pooling keeping the cost low. Nine of them, global
average pooling and a single fully connected layer: as deep as VGG with about a twentieth of its parameters.

    image                      batch x C x H x W
    stem                       7x7 stride 2, pool, 1x1, 3x3      (stride 4; `medium`: 3x3 for 7x7, no pool, 2; `small`: 1)
    stages 3, 4, 5             pool, then 2, 5, 2 modules: 480, 832, 1024 channels at strides 8, 16, 32
    global average pooling     batch x 1024, dropout
    linear                     batch x classes

Two auxiliary classifiers on the first and the fourth module of stage 4 add 0.3 of their cross-entropy to the loss in
training (`oculi.nn.auxiliary_classifier`) and are not run at test.

The defaults are the published torchvision network: batch norm (epsilon 0.001) after every convolution, 3x3 for 5x5 in
the third branch, adaptive pooling in the auxiliary heads, dropout 0.2; `large_kernel=5, dropout=0.4` come closer to the
paper, which has no batch norm but biases and local response normalisation in the stem.

Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich: Going Deeper with Convolutions, 2014,
arXiv:1409.4842.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.auxiliary_classifier import AuxiliaryClassifier, auxiliary_losses
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.nn.convolution import conv_norm, kaiming_init
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses

# of each module: 1x1 | reduction, 3x3 | reduction, 5x5 | after pooling   (table 1 of the paper)
STAGES = [
    [(64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)],
    [
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ],
    [(256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)],
]
AUXILIARY = (0, 3)  # modules of the middle stage that have a classifier of their own


class ConvUnit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv = conv_norm(inputs, outputs, kernel, stride, eps=1e-3)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        return F.relu(self.conv(x), inplace=True)


class InceptionModule(nn.Module):
    """Four branches side by side. widths: 1x1 | reduction, 3x3 | reduction, large | after pooling."""

    def __init__(self, inputs: int, widths: tuple[int, int, int, int, int, int], large_kernel: int = 5):
        super().__init__()
        single, reduce_3, conv_3, reduce_5, conv_5, pooled = widths
        self.single = ConvUnit(inputs, single, 1)
        self.medium = nn.Sequential(ConvUnit(inputs, reduce_3, 1), ConvUnit(reduce_3, conv_3, 3))
        self.large = nn.Sequential(ConvUnit(inputs, reduce_5, 1), ConvUnit(reduce_5, conv_5, large_kernel))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), ConvUnit(inputs, pooled, 1))
        self.outputs = single + conv_3 + conv_5 + pooled

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h w"]:
        return torch.cat([self.single(x), self.medium(x), self.large(x), self.pooled(x)], 1)


class GoogLeNet(System):
    """GoogLeNet for classification. width: factor of every number of channels; large_kernel: of the third branch.

    auxiliary: weight of each auxiliary cross-entropy, 0 for none of the classifiers; dropout: before the head and
    auxiliary_dropout: inside the auxiliary ones.
    """

    answer = Classes

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        large_kernel: int = 3,
        stem: Literal["imagenet", "medium", "small"] = "imagenet",
        auxiliary: float = 0.3,
        dropout: float = 0.2,
        auxiliary_dropout: float = 0.7,
        in_channels: int = 3,
        image_size: int = 224,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if large_kernel % 2 == 0:
            raise ValueError(f"large_kernel: expected an odd size, got {large_kernel}")
        scaled = lambda channels: max(1, round(channels * width))  # noqa: E731
        first = stem == "imagenet"
        self.stem = nn.Sequential(
            ConvUnit(in_channels, scaled(64), 7 if first else 3, 1 if stem == "small" else 2),
            nn.MaxPool2d(3, 2, ceil_mode=True) if first else nn.Identity(),
            ConvUnit(scaled(64), scaled(64), 1),
            ConvUnit(scaled(64), scaled(192), 3),
        )
        reduction = {"imagenet": 4, "medium": 2, "small": 1}[stem]
        self.strides, self.channels = [reduction], [scaled(192)]
        self.pools = nn.ModuleList(nn.MaxPool2d(size, 2, ceil_mode=True) for size in (3, 3, 2))
        self.stages = nn.ModuleList()
        tapped: list[int] = []
        for index, stage in enumerate(STAGES):
            modules: list[InceptionModule] = []
            inputs = self.channels[-1]
            for a, b, c, d, e, f in stage:
                widths = (scaled(a), scaled(b), scaled(c), scaled(d), scaled(e), scaled(f))
                modules.append(InceptionModule(inputs, widths, large_kernel))
                inputs = modules[-1].outputs
            tapped += [modules[place].outputs for place in AUXILIARY if index == 1]
            self.stages.append(nn.ModuleList(modules))
            self.strides.append(self.strides[-1] * 2)
            self.channels.append(inputs)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.channels[-1], num_classes) if num_classes else nn.Identity()
        self.auxiliary_weight = auxiliary
        self.auxiliary = nn.ModuleList()
        if num_classes and auxiliary:
            sizes = (scaled(128), scaled(1024))
            self.auxiliary.extend(AuxiliaryClassifier(n, num_classes, *sizes, auxiliary_dropout) for n in tapped)
        kaiming_init(self)

    def _outputs(self, image: Float[Tensor, "b c h w"]) -> list[list[Tensor]]:
        """What the stem gave, then what each module of each stage gave."""
        outputs = [[self.stem(self.normalize(image))]]
        for pool, stage in zip(self.pools, self.stages, strict=True):
            x, given = pool(outputs[-1][-1]), []
            for module in stage.children():
                x = module(x)
                given.append(x)
            outputs.append(given)
        return outputs

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The stem's map and the last of each stage, finest first, at `self.strides`, with `self.channels` channels."""
        return [given[-1] for given in self._outputs(image)]

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, or pooled features where `num_classes` is 0."""
        return self.head(self.dropout(self.features(image)[-1].mean((2, 3))))

    def all_logits(self, image: Float[Tensor, "b c h w"]) -> tuple[Tensor, list[Tensor]]:
        """Logits of the head, and those of the auxiliary classifiers, the earlier first."""
        outputs = self._outputs(image)
        auxiliary = [head(outputs[2][place]) for head, place in zip(self.auxiliary, AUXILIARY, strict=False)]
        return self.head(self.dropout(outputs[-1][-1].mean((2, 3)))), auxiliary

    def loss(self, batch: Batch) -> Losses:
        logits, auxiliary = self.all_logits(batch.pictures)
        main = classification_loss(logits, batch.label)
        return main | auxiliary_losses(auxiliary, batch.label, self.auxiliary_weight)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)
