r"""U-Net: down to see the whole, up again to say where, with every level's detail handed across.

    encoder level l     two 3x3 convolutions with ReLU, width 2^l w, then 2x2 max pooling
    decoder level l     2x2 transposed convolution of stride 2 that halves the channels,
                        concatenated (not added) with the encoder's map of that level, two 3x3 convolutions
    head                1x1 convolution to one logit per class

    image       batch x C x H x W
    logits      batch x classes x H x W

`padded=False` is the original: no padding, maps shrink by 4 pixels a level, skips are cropped about their centre, and
the output is smaller than the input (572 -> 388 with 5 levels). To label a whole picture it is then mirrored beyond its
edges (the paper's overlap-tile). `norm` puts batch norm after each convolution, which the paper, being older, has not.

Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation, 2015, arXiv:1505.04597.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.segmentation_losses import Criterion, segmentation_loss
from oculi.predictions import Segmentation
from oculi.system import System
from oculi.types import Batch, Losses


def double_conv(inputs: int, outputs: int, padded: bool, norm: bool) -> nn.Sequential:
    """Two 3x3 convolutions, each with ReLU and perhaps batch norm before it."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        convolution = nn.Conv2d(channels, outputs, 3, padding=1 if padded else 0, bias=not norm)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        layers.append(convolution)
        layers += [nn.BatchNorm2d(outputs)] if norm else []
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def center_crop(x: Shaped[Tensor, "*b h w"], height: int, width: int) -> Shaped[Tensor, "*b height width"]:
    """The middle `height` x `width` of maps that are at least as large."""
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


class UNet(System):
    """U-Net for semantic segmentation. The defaults are the paper's widths, padded, with batch norm.

    width: channels of the first level; levels: resolutions, 5 in the paper; padded, norm: see above;
    skips: False drops the concatenated maps, to see what they are worth; criterion: cross_entropy, dice, iou or tversky.
    """

    answer = Segmentation

    def __init__(
        self,
        num_classes: int = 2,
        width: int = 64,
        levels: int = 5,
        padded: bool = True,
        norm: bool = True,
        skips: bool = True,
        in_channels: int = 3,
        image_size: int = 256,
        criterion: Criterion = "cross_entropy",
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if levels < 2:
            raise ValueError(f"levels: expected at least 2, got {levels}")
        if padded and image_size % 2 ** (levels - 1):
            raise ValueError(f"image_size: expected a multiple of {2 ** (levels - 1)}, got {image_size}")
        self.levels, self.padded, self.skips, self.criterion = levels, padded, skips, criterion
        widths = [width * 2**level for level in range(levels)]
        self.down = nn.ModuleList(
            double_conv(inputs, outputs, padded, norm) for inputs, outputs in zip([in_channels, *widths], widths)
        )
        coarse_first = widths[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(w, w // 2, 2, 2) for w in coarse_first[:-1])
        self.merge = nn.ModuleList(double_conv(w if skips else w // 2, w // 2, padded, norm) for w in coarse_first[:-1])
        self.head = nn.Conv2d(width, num_classes, 1)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The encoder's maps, finest first."""
        x, maps = self.normalize(image), []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            maps.append(x)
        return maps

    def network(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes h2 w2"]:
        """Logits as the layers give them: of the input's size if padded, of its middle if not."""
        return self.decode(self.features(image))

    def decode(self, maps: list[Tensor]) -> Float[Tensor, "b classes h2 w2"]:
        """Logits from the encoder's maps, finest first, and nothing else: they are the state between the two halves."""
        *finer, x = maps
        for up, merge, skip in zip(self.up, self.merge, reversed(finer), strict=True):
            x = up(x)
            x = merge(torch.cat([center_crop(skip, *x.shape[-2:]), x], 1) if self.skips else x)
        return self.head(x)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes h w"]:
        """Logits of every pixel."""
        if self.padded:
            return self.network(image)
        height, width = image.shape[-2:]
        tall, wide = input_size(height, self.levels), input_size(width, self.levels)
        top, left = (tall - height) // 2, (wide - width) // 2
        if max(tall - height - top, wide - width - left) >= min(height, width):
            raise ValueError(f"image: {height}x{width} is too small to mirror for {self.levels} unpadded levels")
        sides = (left, wide - width - left, top, tall - height - top)
        return center_crop(self.network(F.pad(image, sides, mode="reflect")), height, width)

    def loss(self, batch: Batch) -> Losses:
        return segmentation_loss(self(batch.image), batch.semantic, self.criterion)

    def predict(self, batch: Batch) -> list[Segmentation]:
        probabilities = self(batch.image).softmax(1)
        return [Segmentation(p.argmax(0), p, self.class_names) for p in probabilities]


def output_size(size: int, levels: int) -> int:
    """Pixels that an unpadded U-Net gives for `size` pixels; ValueError where a pooling would meet an odd map."""
    for level in range(levels):
        size -= 4
        if size <= 0 or (level < levels - 1 and size % 2):
            raise ValueError(f"size: an unpadded U-Net of {levels} levels cannot halve a map of {size} pixels")
        size = size // 2 if level < levels - 1 else size
    for _ in range(levels - 1):
        size = size * 2 - 4
    return size


def input_size(size: int, levels: int) -> int:
    """The least input for which an unpadded U-Net gives at least `size` pixels: invert it level by level."""
    for _ in range(levels - 1):
        size = -(-(size + 4) // 2)
    size += 4
    for _ in range(levels - 1):
        size = size * 2 + 4
    return size
