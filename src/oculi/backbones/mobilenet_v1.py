r"""MobileNet: depthwise separable convolutions, so that a network fits a telephone.

A dense k x k convolution filters and mixes channels at once; a separable one does it in two steps,

    depthwise   y_c = w_c * x_c             one k x k filter per channel (groups = channels), channels never mixed
    pointwise   z_d = sum_c v_dc y_c        a 1x1 convolution

each followed by batch norm and ReLU6, at 1/D + 1/k^2 of the dense one's multiply-adds (D output channels; about 1/9 for
3x3). Two numbers trade accuracy for cost: `width` alpha thins every layer, resolution rho shrinks the picture; the cost
goes with alpha^2 rho^2.

    image                      batch x C x H x W
    stem                       dense 3x3, 32 alpha channels, stride 2 (`stem_stride=1` for pictures up to 64 px)
    stages 1..5                1, 2, 2, 6, 2 separable convolutions, 64 to 1024 alpha channels, strides 2, 4, 8, 16, 32
    global average pooling     batch x features
    linear                     batch x classes

MobileNet-224 with alpha 1, 0.75, 0.5, 0.25 is `width=1.0`, `0.75`, `0.5`, `0.25`. `separable=False` has dense
convolutions in the same places, which the paper compares with. Differs from the paper as all libraries do: ReLU6 for
ReLU, channels rounded to multiples of 8.

Howard et al.: MobileNets, 2017, arXiv:1704.04861.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.nn.convolution import conv_norm, kaiming_init, round_channels
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses


class SeparableBlock(nn.Module):
    """Depthwise 3x3 (stride here) and pointwise 1x1, or one dense 3x3; batch norm and ReLU6 after each."""

    def __init__(self, inputs: int, outputs: int, stride: int, separable: bool = True, same: bool = False):
        super().__init__()
        if separable:
            depthwise = conv_norm(inputs, inputs, 3, stride, groups=inputs, same=same)
            self.convs = nn.ModuleList([depthwise, conv_norm(inputs, outputs, 1)])
        else:
            self.convs = nn.ModuleList([conv_norm(inputs, outputs, 3, stride, same=same)])

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        for conv in self.convs:
            x = F.relu6(conv(x), inplace=True)
        return x


class MobileNetV1(System):
    """MobileNet for classification; `features` gives the pyramid that dense systems use, `num_classes=0` pooled features.

    width: alpha. depths: separable convolutions per stage. stem_stride: 2, or 1 for small pictures, which halves all
    strides. same_padding: as TensorFlow.
    """

    answer = Classes

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        depths: list[int] = [1, 2, 2, 6, 2],  # noqa: B006 - read only; a list so that JSON gives it back
        separable: bool = True,
        stem_stride: int = 2,
        in_channels: int = 3,
        image_size: int = 224,
        same_padding: bool = False,
    ):
        if width <= 0:
            raise ValueError(f"width: expected a positive number, got {width}")
        if not depths or min(depths) < 1:
            raise ValueError(f"depths: expected at least 1 convolution in each stage, got {depths}")
        super().__init__(InputContract(image_size, image_size, in_channels))
        inputs = round_channels(32 * width)
        self.stem = conv_norm(in_channels, inputs, 3, stem_stride, same=same_padding)
        self.stages = nn.ModuleList()
        self.strides: list[int] = []
        self.channels: list[int] = []
        for index, depth in enumerate(depths):
            outputs, stride = round_channels(64 * 2**index * width), 1 if index == 0 else 2
            blocks = []
            for block in range(depth):
                own = stride if block == 0 else 1
                blocks.append(SeparableBlock(inputs, outputs, own, separable, same_padding))
                inputs = outputs
            self.stages.append(nn.Sequential(*blocks))
            self.strides.append(stem_stride * 2**index)
            self.channels.append(outputs)
        self.head = nn.Linear(inputs, num_classes) if num_classes else nn.Identity()
        kaiming_init(self)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """One map per stage, finest first, at `self.strides`, with `self.channels` channels."""
        x = F.relu6(self.stem(self.normalize(image)), inplace=True)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, or pooled features where `num_classes` is 0."""
        return self.head(self.features(image)[-1].mean((2, 3)))

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)
