r"""Depth from one picture, learned from measured depth.

One picture cannot tell a large scene far away from a small one near by, so the loss forgives a part of a common factor:

    y = typical * exp(network(I))                          depth in metres, positive by construction
    d_i = log y_i - log y*_i
    L = mean d_i^2 - lambda (mean d_i)^2                   over the pixels whose depth was measured, per picture

    lambda = 0 is the squared error of log depth, lambda = 1 does not see a common factor at all, 0.5 is the paper's.

    image    batch x 3 x H x W
    depth    batch x H x W; measured maps may have holes: 0, NaN, infinity, or more than `farthest`

Network: `resnet`, whose maps a decoder joins from coarse to fine (`oculi.nn.skip_decoder`), or `dpt`, a vision transformer
whose tokens are fused into a map (`oculi.nn.dense_prediction_transformer`), as the published networks for depth are built;
its last ReLU is the exponential here. Differs from the paper, which refined a coarse map by a second network: both of
these join coarse and fine inside.

Eigen, Puhrsch, Fergus: Depth Map Prediction from a Single Image using a Multi-Scale Deep Network, 2014, arXiv:1406.2283;
Ranftl, Bochkovskiy, Koltun: Vision Transformers for Dense Prediction, 2021, arXiv:2103.13413.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from oculi.backbones.resnet import ResNet
from oculi.input_contract import InputContract
from oculi.metrics.depth import measured
from oculi.nn.dense_prediction_transformer import DensePredictionTransformer
from oculi.nn.skip_decoder import SkipDecoder
from oculi.predictions import Depth
from oculi.system import System
from oculi.types import Batch, Losses


def scale_invariant_log_loss(
    log_depth: Float[Tensor, "b h w"],
    truth: Float[Tensor, "b h w"],
    balance: float = 0.5,
    known: Bool[Tensor, "b h w"] | None = None,
) -> Float[Tensor, ""]:
    """mean d^2 - balance (mean d)^2 per picture over its known pixels, mean over the pictures that have any.

    >>> log_depth = torch.tensor([[[1.0, 3.0]]])
    >>> float(scale_invariant_log_loss(log_depth, torch.ones(1, 1, 2), 0.5))
    3.0
    """
    known = measured(truth) if known is None else known & measured(truth)
    d = torch.where(known, log_depth - torch.where(known, truth, 1.0).log(), 0.0).flatten(1)
    count = known.flatten(1).sum(1)
    mean, square = (values.sum(1) / count.clamp_min(1) for values in (d, d.square()))
    return (square - balance * mean.square()).sum() / (count > 0).sum().clamp_min(1)


class MonocularDepthSupervised(System):
    """Depth in metres from one picture.

    width: of the ResNet's first stage, or of the tokens; depths, stem: of the ResNet; layers, heads, neck, fusion: of
    `dpt`, its defaults being DPT-Base; balance: lambda; typical: depth that the untrained network says; farthest: what is
    measured beyond it counts as not measured.
    """

    answer = Depth

    def __init__(
        self,
        network: Literal["resnet", "dpt"] = "resnet",
        image_size: int = 256,
        width: int = 64,
        depths: list[int] = [2, 2, 2, 2],  # noqa: B006 - read only; a list so that JSON gives it back
        stem: Literal["imagenet", "small"] = "imagenet",
        layers: int = 12,
        heads: int = 12,
        neck: list[int] = [96, 192, 384, 768],  # noqa: B006
        fusion: int = 256,
        balance: float = 0.5,
        typical: float = 10.0,
        farthest: float = 100.0,
    ):
        super().__init__(InputContract(image_size, image_size))
        if network not in ("resnet", "dpt"):
            raise ValueError(f"network: expected resnet or dpt, got {network!r}")
        if not 0 <= balance <= 1:
            raise ValueError(f"balance: expected 0 to 1, got {balance}")
        if not 0 < typical < farthest:
            raise ValueError(f"typical, farthest: expected 0 < typical < farthest, got {typical} and {farthest}")
        self.balance, self.typical, self.farthest = balance, typical, farthest
        self.transformer: nn.Module | None = None
        if network == "dpt":
            self.transformer = DensePredictionTransformer(image_size, 3, width, layers, heads, neck, fusion)
        else:
            self.encoder = ResNet(0, depths, width=width, stem=stem, image_size=image_size)
            self.decoder = SkipDecoder(self.encoder.channels)

    def log_depth(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
        """What the network says, relative to `typical`."""
        x = self.normalize(image)
        if self.transformer is not None:
            return self.transformer(x)
        return self.decoder(self.encoder.features(x), *image.shape[-2:])[:, 0]

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
        """Depth in metres of every pixel."""
        return self.typical * self.log_depth(image).exp()

    def loss(self, batch: Batch) -> Losses:
        if batch.depth is None:
            raise ValueError("batch.depth: expected measured depth, got None")
        known = batch.depth < self.farthest
        relative = batch.depth / self.typical
        return {"log_depth": scale_invariant_log_loss(self.log_depth(batch.pictures), relative, self.balance, known)}

    def predict(self, batch: Batch) -> list[Depth]:
        return [Depth(depth) for depth in self(batch.pictures)]
