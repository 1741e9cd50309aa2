r"""MaskFormer: segmentation as a set of masks, each with one class, instead of one class for every pixel.

    image           batch x C x H x W
    trunk           residual network, maps of strides 4, 8, 16, 32
    pixel decoder   from the coarsest: 3x3 convolution; then level by level upsampled (nearest) plus 1x1 of the trunk's
                    map, 3x3; each with group norm; a last 3x3 gives an embedding E of every place at stride 4
    decoder         N queries, of which only the places are learned, look at the coarsest map and at one another
    heads           per query C + 1 class scores, the last "no object", and through three layers a mask embedding e_n
    masks           m_n = sigmoid(e_n · E[h, w]); they may overlap

Objects, or regions of one class, are matched to queries at the least cost - p_n(class) + 20 focal + dice, and learned by

    classes   cross-entropy of all queries, "no object" weighing 0.1
    masks     20 / M sum of the mean focal loss, alpha 0.25, gamma 2          dice   1 / M sum (1 - (2 m·t + 1) / (m + t + 1))

M being the number of true masks; summed over the decoder's layers. Where pixels' classes are wanted, one matrix product

    S[k, h, w] = sum_n p_n(k) m_n[h, w]          the class of a pixel is the k of largest S

and where objects are: each pixel goes to the query of largest p m; of a query that says "no object", is unsure, or loses
more than a fifth of its own mask to others, nothing remains.

`formulation` gives the two neighbours of this idea: `fixed`, as many queries as classes, query k being class k's without
matching, and `pixels`, a class per pixel from the same pixel decoder, the baseline. Differs from the paper: batch norm
learns, all pictures have one size, no dropout.

Cheng, Schwing, Kirillov: Per-Pixel Classification is Not All You Need for Semantic Segmentation, 2021, arXiv:2107.06278.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.backbones.resnet import ResNet
from oculi.input_contract import InputContract
from oculi.nn.query_decoder import QueryDecoder, perceptron, sine_positions
from oculi.nn.set_prediction import set_class_loss
from oculi.ops.assignment import Matching, assign
from oculi.predictions import Panoptic, Segmentation
from oculi.system import System
from oculi.types import IGNORE, Batch, Losses

MASK_WEIGHT, DICE_WEIGHT, NO_OBJECT = 20.0, 1.0, 0.1
ALPHA, GAMMA = 0.25, 2.0
LEAST_SCORE, LEAST_SHARE = 0.5, 0.8


# what there is -------------------------------------------------------------------------------------------------------


def true_segments(
    batch: Batch, num_classes: int, objects: bool = True
) -> tuple[Float[Tensor, "b segments h w"], Int[Tensor, "b segments"], Bool[Tensor, "b segments"]]:
    """Masks, their classes and which of them exist: objects where the batch has them, else each class's region."""
    if batch.semantic is None:
        raise ValueError("batch.semantic: expected a class per pixel, got None")
    known = batch.semantic != IGNORE
    if batch.panoptic is None or not objects:
        labels = torch.arange(num_classes, device=batch.semantic.device).expand(len(batch.semantic), -1)
        masks = (batch.semantic[:, None] == labels[..., None, None]) & known[:, None]
    else:
        numbers = torch.arange(int(batch.panoptic.max()) + 1, device=batch.semantic.device)
        masks = (batch.panoptic[:, None] == numbers[:, None, None]) & known[:, None]
        labels = torch.where(masks, batch.semantic[:, None], 0).flatten(2).amax(-1)
    return masks.float(), labels.long(), masks.flatten(2).any(-1)


# costs and losses ----------------------------------------------------------------------------------------------------


def dice(chance: Float[Tensor, "*b n places"], truth: Float[Tensor, "*b m places"]) -> Float[Tensor, "*b n m"]:
    """1 - (2 m·t + 1) / (|m| + |t| + 1) of every pair."""
    both = chance.sum(-1)[..., :, None] + truth.sum(-1)[..., None, :]
    return 1 - (2 * chance @ truth.transpose(-1, -2) + 1) / (both + 1)


def focal_terms(logits: Float[Tensor, "*b n places"]) -> tuple[Tensor, Tensor]:
    """What each place costs if it is inside the true mask, and if it is not."""
    chance = logits.sigmoid()
    inside = ALPHA * (1 - chance) ** GAMMA * F.softplus(-logits)
    return inside, (1 - ALPHA) * chance**GAMMA * F.softplus(logits)


@torch.no_grad()
def match_masks(
    logits: Float[Tensor, "b queries scores"],
    masks: Float[Tensor, "b queries h w"],
    truth: Float[Tensor, "b segments h2 w2"],
    labels: Int[Tensor, "b segments"],
    real: Bool[Tensor, "b segments"],
) -> Matching:
    """Which query stands for which true mask, compared at the resolution of the predictions."""
    small = F.interpolate(truth, size=masks.shape[-2:], mode="nearest").flatten(2)
    inside, outside = focal_terms(masks.flatten(2))
    focal = (inside @ small.transpose(1, 2) + outside @ (1 - small).transpose(1, 2)) / small.shape[-1]
    said = logits.softmax(-1).gather(2, labels[:, None].expand(-1, logits.shape[1], -1))
    return assign(MASK_WEIGHT * focal + DICE_WEIGHT * dice(masks.flatten(2).sigmoid(), small) - said, real)


def mask_losses(
    logits: Float[Tensor, "b queries scores"],
    masks: Float[Tensor, "b queries h w"],
    truth: Float[Tensor, "b segments h2 w2"],
    labels: Int[Tensor, "b segments"],
    real: Bool[Tensor, "b segments"],
    found: Matching,
) -> Losses:
    """The three losses of queries `found` to stand for true masks."""
    wanted = truth[found.picture, found.truth].flatten(1)
    given = F.interpolate(
        masks[found.picture, found.query][:, None], size=truth.shape[-2:], mode="bilinear", align_corners=False
    ).flatten(1)
    inside, outside = focal_terms(given)
    focal = (inside * wanted + outside * (1 - wanted)).mean(1).sum()
    overlap = dice(given.sigmoid()[:, None], wanted[:, None]).sum()
    count = real.sum().clamp_min(1)
    return {
        "classes": set_class_loss(logits, labels, found, NO_OBJECT),
        "masks": MASK_WEIGHT * focal / count,
        "dice": DICE_WEIGHT * overlap / count,
    }


# what it means -------------------------------------------------------------------------------------------------------


def semantic_scores(
    logits: Float[Tensor, "b queries scores"], masks: Float[Tensor, "b queries h w"]
) -> Float[Tensor, "b classes h w"]:
    """S[k] = sum over queries of p(k) m; "no object" is left out."""
    return torch.einsum("bnk,bnhw->bkhw", logits.softmax(-1)[..., :-1], masks.sigmoid())


def panoptic_segments(
    logits: Float[Tensor, "b queries scores"],
    masks: Float[Tensor, "b queries h w"],
    stuff: Sequence[int] = (),
    least: float = LEAST_SCORE,
    strict: bool = True,
) -> tuple[Int[Tensor, "b h w"], Int[Tensor, "b queries"], Float[Tensor, "b queries"]]:
    """Each pixel's query + 1, 0 where there is none; each query's class; and its score, 0 if nothing of it remains.

    Queries of one `stuff` class become one segment. strict: a pixel must lie in its query's own mask, as the authors
    have it; without it every pixel won counts and areas are those of p m, as transformers has it.
    """
    scores, labels = logits.softmax(-1).max(-1)
    kept = (labels < logits.shape[-1] - 1) & (scores > least)
    chance = masks.sigmoid()
    weighted = chance * (scores * kept)[..., None, None]
    winner = torch.where(kept[..., None, None], weighted, -1.0).argmax(1, keepdim=True)
    numbers = torch.arange(masks.shape[1], device=masks.device)[:, None, None]
    inside = (chance if strict else weighted) >= 0.5
    own = winner == numbers
    area, whole = own.flatten(2).sum(-1), inside.flatten(2).sum(-1)
    if strict:
        own = own & inside
    solid = kept & own.flatten(2).any(-1) & (whole > 0) & (area > LEAST_SHARE * whole)
    same = (labels[:, :, None] == labels[:, None]) & solid[:, None]
    fused = torch.zeros(logits.shape[-1], dtype=torch.bool, device=masks.device)
    fused[list(stuff)] = True
    first = torch.where(fused[labels], same.int().argmax(-1), numbers[:, 0, 0])
    segment = ((first + 1) * solid)[..., None, None] * own
    return segment.amax(1), labels, scores * (solid & (first == numbers[:, 0, 0]))


def panoptic_answers(found: tuple[Tensor, Tensor, Tensor], names: list[str] | None = None) -> list[Panoptic]:
    """The segments that exist, numbered from 1 on."""
    answers = []
    for segments, labels, scores in zip(*found, strict=True):
        there = scores > 0
        number = torch.cat([there.new_zeros(1), there]).cumsum(0)
        answers.append(Panoptic(number[segments], labels[there], scores[there], names))
    return answers


# the system ----------------------------------------------------------------------------------------------------------


def conv_group(inputs: int, outputs: int, kernel: int, relu: bool = True) -> nn.Sequential:
    """Convolution without bias, group norm of 32 groups where the channels allow it, ReLU."""
    norm = nn.GroupNorm(math.gcd(32, outputs), outputs)
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), norm]
    nn.init.kaiming_uniform_(layers[0].weight, a=1)  # type: ignore[arg-type]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class PixelDecoder(nn.Module):
    """From the trunk's maps to one embedding per place of the finest."""

    def __init__(self, inputs: list[int], channels: int):
        super().__init__()
        self.stem = conv_group(inputs[-1], channels, 3)
        self.lateral = nn.ModuleList(conv_group(n, channels, 1, relu=False) for n in inputs[-2::-1])
        self.merge = nn.ModuleList(conv_group(channels, channels, 3) for _ in inputs[1:])
        self.last = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> Float[Tensor, "b channels h w"]:
        x = self.stem(maps[-1])
        for lateral, merge, finer in zip(self.lateral, self.merge, maps[-2::-1], strict=True):
            x = merge(F.interpolate(x, size=finer.shape[-2:], mode="nearest") + lateral(finer))
        return self.last(x)


class MaskFormer(System):
    """MaskFormer for semantic segmentation. The defaults are the paper's with ResNet-50.

    depths, bottleneck, width: the trunk, see ResNet. channels: of the pixel decoder, the transformer and the embeddings;
    heads, hidden, layers, queries: of the transformer decoder. formulation: see above. `panoptic` answers by objects.
    """

    answer = Segmentation

    def __init__(
        self,
        num_classes: int = 150,
        depths: list[int] = [3, 4, 6, 3],  # noqa: B006 - read only; a list so that JSON gives it back
        bottleneck: bool = True,
        width: int = 64,
        channels: int = 256,
        heads: int = 8,
        hidden: int = 2048,
        layers: int = 6,
        queries: int = 100,
        formulation: Literal["masks", "fixed", "pixels"] = "masks",
        in_channels: int = 3,
        image_size: int = 512,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if formulation not in ("masks", "fixed", "pixels"):
            raise ValueError(f"formulation: expected masks, fixed or pixels, got {formulation!r}")
        if formulation == "fixed" and queries != num_classes:
            raise ValueError(f"queries: fixed matching wants one for each of {num_classes} classes, got {queries}")
        self.num_classes, self.formulation = num_classes, formulation
        self.trunk = ResNet(0, depths, bottleneck, width, "imagenet", in_channels, image_size)
        self.pixels = PixelDecoder(self.trunk.channels, channels)
        if formulation == "pixels":
            self.classes: nn.Module = nn.Conv2d(channels, num_classes, 1)
            return
        self.project = nn.Conv2d(self.trunk.channels[-1], channels, 1)
        self.decoder = QueryDecoder(channels, heads, hidden, layers, queries)
        self.classes = nn.Linear(channels, num_classes + 1)
        self.embedding = perceptron(channels, channels, channels)

    def answers(
        self, image: Float[Tensor, "b c h w"], last: bool = False
    ) -> tuple[Float[Tensor, "n queries scores"], Float[Tensor, "n queries h4 w4"]]:
        """Class scores and mask logits, n = layers * b, the first layer's first; or of the last layer alone."""
        maps = self.trunk.features(self.normalize(image))
        embedding, picture = self.pixels(maps), self.project(maps[-1])
        places = sine_positions(picture.shape[-2], picture.shape[-1], picture.shape[1], image.device)[None]
        decoded = self.decoder(picture.flatten(2).transpose(1, 2), places)
        decoded = decoded[-1:] if last else decoded
        masks = [(self.embedding(x) @ embedding.flatten(2)).unflatten(-1, embedding.shape[-2:]) for x in decoded]
        return self.classes(torch.cat(decoded)), torch.cat(masks)

    def whole(self, image: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor]:
        """Class scores and mask logits of every pixel of the picture."""
        if self.formulation == "pixels":
            raise ValueError("formulation: a class per pixel has no masks")
        logits, masks = self.answers(image, last=True)
        return logits, F.interpolate(masks, size=image.shape[-2:], mode="bilinear", align_corners=False)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes h w"]:
        """Logits of every pixel: log S, whose softmax is S over its sum."""
        if self.formulation == "pixels":
            logits = self.classes(self.pixels(self.trunk.features(self.normalize(image))))
            return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
        return semantic_scores(*self.whole(image)).clamp_min(1e-6).log()

    def panoptic(self, image: Float[Tensor, "b c h w"], stuff: Sequence[int] = (0,)) -> list[Panoptic]:
        """One answer per picture by objects; `stuff` classes are one segment each."""
        return panoptic_answers(panoptic_segments(*self.whole(image), stuff), self.class_names)

    def loss(self, batch: Batch) -> Losses:
        truth, labels, real = true_segments(batch, self.num_classes, self.formulation == "masks")
        if self.formulation == "pixels":
            target = batch.semantic.long()  # type: ignore[union-attr]
            known = (target != IGNORE).sum().clamp_min(1)
            total = F.cross_entropy(self(batch.image), target, ignore_index=IGNORE, reduction="sum")
            return {"cross_entropy": total / known}
        logits, masks = self.answers(batch.pictures)
        layers = len(logits) // len(truth)
        truth, labels, real = truth.repeat(layers, 1, 1, 1), labels.repeat(layers, 1), real.repeat(layers, 1)
        if self.formulation == "fixed":
            picture, query = real.nonzero(as_tuple=True)
            found = Matching(picture, query, query)
        else:
            found = match_masks(logits, masks, truth, labels, real)
        losses = mask_losses(logits, masks, truth, labels, real, found)
        return {name: layers * value for name, value in losses.items()}  # the sum over layers of their means

    def predict(self, batch: Batch) -> list[Segmentation]:
        probabilities = self(batch.image).softmax(1)
        return [Segmentation(p.argmax(0), p, self.class_names) for p in probabilities]
