r"""Vision Transformer (ViT): a picture is a sequence of patches.

The picture is cut into P x P patches by a convolution of stride P; a learned [CLS] token is put in front, learned
positions are added, and a pre-norm transformer encoder follows:

    z_0 = [x_cls; x_1 E; ...; x_N E] + E_pos            N = (H / P)(W / P)
    z'  = z + MSA(LN(z)),   z = z' + MLP(LN(z'))        L times, MLP = Linear, GELU, Linear of 4 times the width
    y   = Linear(LN(z_L)[cls])                          (`pool="mean"`: the mean of the patches' tokens)

    image                      batch x C x H x W
    tokens                     batch x (1 + N) x width
    logits                     batch x classes

Attention is global from the first layer; what a convolution knows beforehand (neighbours matter, everywhere alike) has
to be learned from data. Differs from the paper: no tanh layer in the head, as in torchvision and timm.

               width   depth   heads
    ViT-Ti     192     12      3
    ViT-S      384     12      6
    ViT-B      768     12      12          the defaults, with patch 16: ViT-B/16
    ViT-L      1024    24      16

DINO's networks are ViT-S and ViT-B with patch 16 or 8 and `num_classes=0`, which leaves the normed [CLS] token. Any
picture of at least one patch will do: on another grid than that of `image_size` the patches' positions are interpolated
(bicubic without antialiasing, as by DINO and transformers; timm antialiases), and what the picture has beside whole
patches is not seen.

Dosovitskiy et al.: An Image is Worth 16x16 Words, 2020, arXiv:2010.11929; Touvron et al.: DeiT (the sizes Ti and S),
2020, arXiv:2012.12877; Caron et al.: Emerging Properties in Self-Supervised Vision Transformers, 2021, arXiv:2104.14294.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.attention import TransformerBlock
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses


class ViT(System):
    """Vision Transformer for classification; `features` gives the patches' map, `num_classes=0` the pooled token.

    The defaults are ViT-B/16. hidden: width of the feed-forward layers (0 = four times the width); eps: of the layer
    norms (the published weights were trained with 1e-6 or 1e-12).
    """

    answer = Classes

    def __init__(
        self,
        num_classes: int = 1000,
        image_size: int = 224,
        patch: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 0,
        pool: Literal["cls", "mean"] = "cls",
        dropout: float = 0.0,
        in_channels: int = 3,
        eps: float = 1e-6,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if image_size % patch:
            raise ValueError(f"patch: expected a divisor of image_size {image_size}, got {patch}")
        if pool not in ("cls", "mean"):
            raise ValueError(f"pool: expected cls or mean, got {pool!r}")
        self.pool = pool
        self.strides, self.channels = [patch], [width]
        self.patches = nn.Conv2d(in_channels, width, patch, patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + (image_size // patch) ** 2, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, hidden, dropout=dropout, eps=eps) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=eps)
        self.head: nn.Module = nn.Identity()
        nn.init.normal_(self.positions, std=0.02)
        nn.init.trunc_normal_(self.patches.weight, std=(in_channels * patch**2) ** -0.5)
        if num_classes:
            self.head = head = nn.Linear(width, num_classes)
            nn.init.trunc_normal_(head.weight, std=0.02)

    def tokens(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b tokens width"]:
        """The encoder's output after the last norm, [CLS] first, then the patches row by row."""
        patch = self.strides[0]
        if image.shape[-2] < patch or image.shape[-1] < patch:
            raise ValueError(f"image: expected at least {patch}x{patch} pixels, got {tuple(image.shape[-2:])}")
        maps = self.patches(self.normalize(image))
        x = torch.cat([self.cls.expand(image.shape[0], -1, -1), maps.flatten(2).transpose(1, 2)], 1)
        x = self.dropout(x + self._positions_on(maps.shape[-2], maps.shape[-1]))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def _positions_on(self, rows: int, columns: int) -> Float[Tensor, "1 tokens width"]:
        """The learned positions, those of the patches interpolated to another grid than their own."""
        side = math.isqrt(self.positions.shape[1] - 1)
        if (rows, columns) == (side, side):
            return self.positions
        grid = self.positions[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([self.positions[:, :1], grid.flatten(2).transpose(1, 2)], 1)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """One map `batch x width x H/P x W/P`, at `self.strides`, with `self.channels` channels."""
        rows = image.shape[-2] // self.strides[0]
        return [self.tokens(image)[:, 1:].transpose(1, 2).unflatten(2, (rows, -1))]

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits, or the pooled token where `num_classes` is 0."""
        tokens = self.tokens(image)
        return self.head(tokens[:, 0] if self.pool == "cls" else tokens[:, 1:].mean(1))

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)
