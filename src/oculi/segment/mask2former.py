r"""Mask2Former: every query looks only where it believes its own mask to be, and one network does all segmentation.

    image           batch x 3 x H x W
    trunk           Swin or residual network, maps of strides 4, 8, 16, 32
    pixel decoder   the three coarser maps, each 1x1 and group norm, through layers of deformable attention over all three;
                    the finest of them, upsampled (bilinear), plus 1x1 of the map of stride 4, 3x3, 1x1: embedding E
    decoder         N queries with learned features and learned places. Layer l looks at scale l mod 3, coarsest first:
                    masked cross-attention, then self-attention, then the feed-forward net
    heads           after each layer and before the first: C + 1 class scores, mask logits e_n · E[h, w]

Masked attention adds to the scores of query n the mask that the heads gave it one layer before, at the scale it looks at,

    M[n, y] = 0 where sigmoid(m_n[y]) >= 0.5, -inf elsewhere;    0 everywhere where that mask is empty

Masks are linear in E, so that a mask at another scale is e_n · (E resized): no mask is made whole that is not needed.

All layers' answers are matched and learned as MaskFormer's, at points instead of everywhere: matching by K uniform points
that all pairs share, the loss at K points of which three quarters lie where the mask is least sure,

    cost, loss   2 class,   5 binary cross-entropy of the mask (mean over points),   5 dice

The answer is the picture's segments, or with `stuff=None` objects that may overlap: the N best pairs of query and class,

    score   p_n(k) times the mean of sigmoid(m_n) where m_n > 0

`masked=False` is plain cross-attention, for comparison. Differs from the paper: all pictures have one size.

Cheng, Misra, Schwing, Kirillov, Girdhar: Masked-attention Mask Transformer for Universal Image Segmentation, 2021,
arXiv:2112.01527.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.backbones.resnet import ResNet
from oculi.backbones.swin import Swin
from oculi.input_contract import InputContract
from oculi.nn.cross_attention import foreground
from oculi.nn.deformable_attention import DeformableEncoderLayer, cell_centres
from oculi.nn.detection import answers
from oculi.nn.query_decoder import DecoderLayer, perceptron, sine_positions
from oculi.nn.set_prediction import set_class_loss
from oculi.ops.assignment import Matching, assign
from oculi.ops.boxes import mask_boxes
from oculi.ops.point_sampling import sample_at, uncertain_points
from oculi.predictions import Detections, Panoptic
from oculi.segment.maskformer import conv_group, dice, panoptic_answers, panoptic_segments, true_segments
from oculi.system import System
from oculi.types import Batch, Losses

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT, NO_OBJECT = 2.0, 5.0, 5.0, 0.1
SCALES, HEAD_WIDTH = 3, 32


# costs and losses at points ------------------------------------------------------------------------------------------


@torch.no_grad()
def match_at_points(
    logits: Float[Tensor, "b queries scores"],
    masks: Float[Tensor, "b queries h w"],
    truth: Float[Tensor, "b segments h2 w2"],
    labels: Int[Tensor, "b segments"],
    real: Bool[Tensor, "b segments"],
    points: Float[Tensor, "b points 2"],
) -> Matching:
    """Which query stands for which true mask, both read at these points."""
    given, wanted = sample_at(masks, points), sample_at(truth, points).transpose(1, 2)
    entropy = F.softplus(-given) @ wanted + F.softplus(given) @ (1 - wanted)
    overlap = dice(given.sigmoid(), wanted.transpose(1, 2))
    said = logits.softmax(-1).gather(2, labels[:, None].expand(-1, logits.shape[1], -1))
    return assign(MASK_WEIGHT * entropy / points.shape[1] + DICE_WEIGHT * overlap - CLASS_WEIGHT * said, real)


def point_losses(
    logits: Float[Tensor, "b queries scores"],
    masks: Float[Tensor, "b queries h w"],
    truth: Float[Tensor, "b segments h2 w2"],
    labels: Int[Tensor, "b segments"],
    real: Bool[Tensor, "b segments"],
    points: int,
) -> Losses:
    """Matching and the three losses of one layer's answers, or of several layers' side by side."""
    spots = torch.rand(len(masks), points, 2, device=masks.device)
    found = match_at_points(logits, masks, truth, labels, real, spots)
    given = masks[found.picture, found.query]
    spots = uncertain_points(given, points)
    said = sample_at(given[:, None], spots)[:, 0]
    wanted = sample_at(truth[found.picture, found.truth][:, None], spots)[:, 0]
    entropy = F.binary_cross_entropy_with_logits(said, wanted, reduction="none").mean(1).sum()
    count = real.sum().clamp_min(1)
    return {
        "classes": CLASS_WEIGHT * set_class_loss(logits, labels, found, NO_OBJECT),
        "masks": MASK_WEIGHT * entropy / count,
        "dice": DICE_WEIGHT * dice(said.sigmoid()[:, None], wanted[:, None]).sum() / count,
    }


# what it means -------------------------------------------------------------------------------------------------------


def best_instances(
    logits: Float[Tensor, "b queries scores"], masks: Float[Tensor, "b queries h w"]
) -> tuple[Float[Tensor, "b n 4"], Float[Tensor, "b n"], Int[Tensor, "b n"], Bool[Tensor, "b n h w"]]:
    """Boxes around the masks, scores, labels and masks of n = queries objects, best first; what scores 0 has no mask."""
    inside, classes = masks > 0, logits.shape[-1] - 1
    sure = (masks.sigmoid() * inside).flatten(2).sum(-1) / (inside.flatten(2).sum(-1) + 1e-6)
    chance, pair = logits.softmax(-1)[..., :-1].flatten(1).topk(masks.shape[1], 1)
    scores, order = (chance * sure.gather(1, pair // classes)).sort(1, descending=True)
    pair = pair.gather(1, order)
    own = inside.gather(1, (pair // classes)[..., None, None].expand_as(inside))
    return mask_boxes(own), scores, pair % classes, own


# the layers ----------------------------------------------------------------------------------------------------------


class DeformablePixelDecoder(nn.Module):
    """From four maps of the trunk, finest first, to three scales, coarsest first, and the embedding at the finest."""

    def __init__(self, inputs: list[int], channels: int, heads: int, hidden: int, layers: int):
        super().__init__()
        norms = [nn.GroupNorm(math.gcd(32, channels), channels) for _ in range(SCALES)]
        self.project = nn.ModuleList(
            nn.Sequential(nn.Conv2d(n, channels, 1), norm) for n, norm in zip(inputs[:0:-1], norms, strict=True)
        )
        self.scales = nn.Parameter(torch.randn(SCALES, channels))
        self.layers = nn.ModuleList(DeformableEncoderLayer(channels, heads, hidden, SCALES) for _ in range(layers))
        self.lateral = conv_group(inputs[0], channels, 1, relu=False)
        self.merge = conv_group(channels, channels, 3)
        self.last = nn.Conv2d(channels, channels, 1)

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], Float[Tensor, "b channels h w"]]:
        levels = [project(x) for project, x in zip(self.project, maps[:0:-1], strict=True)]
        sizes = [(x.shape[-2], x.shape[-1]) for x in levels]
        channels, device = levels[0].shape[1], levels[0].device
        places = [sine_positions(h, w, channels, device) + self.scales[i] for i, (h, w) in enumerate(sizes)]
        placed, centres = torch.cat(places)[None], cell_centres(sizes, device)
        x = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)
        for layer in self.layers:
            x = layer(x, placed, centres, sizes)
        parts = x.split([h * w for h, w in sizes], 1)
        levels = [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]
        fine = self.lateral(maps[0])
        wide = F.interpolate(levels[-1], size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return levels, self.last(self.merge(fine + wide))


class MaskedDecoder(nn.Module):
    """Queries through layers of masked attention; their class scores and mask logits before the first and after each."""

    def __init__(self, channels: int, heads: int, hidden: int, layers: int, queries: int, num_classes: int):
        super().__init__()
        self.features, self.queries = (nn.Parameter(torch.randn(queries, channels)) for _ in range(2))
        self.scales = nn.Parameter(torch.randn(SCALES, channels))
        self.layers = nn.ModuleList(DecoderLayer(channels, heads, hidden, cross_first=True) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.classes = nn.Linear(channels, num_classes + 1)
        self.embedding = perceptron(channels, channels, channels)

    def forward(
        self, levels: list[Tensor], embedding: Float[Tensor, "b c h w"], masked: bool = True, last: bool = False
    ) -> tuple[Float[Tensor, "n queries scores"], Float[Tensor, "n queries h w"]]:
        """n = (layers + 1) * b, the first answer's first; `last`: the final answer alone."""
        pictures = [x.flatten(2).transpose(1, 2) + self.scales[i] for i, x in enumerate(levels)]
        places = [sine_positions(x.shape[-2], x.shape[-1], x.shape[1], x.device) for x in levels]
        resized = [F.interpolate(embedding, size=x.shape[-2:], mode="bilinear", align_corners=False) for x in levels]
        own, x = self.queries[None], self.features.expand(embedding.shape[0], -1, -1)
        normed = [self.norm(x)]
        for index, layer in enumerate(self.layers):
            scale = index % SCALES
            mask = self.looked_at(normed[-1], resized[scale]) if masked else None
            x = layer(x, own, pictures[scale], pictures[scale] + places[scale], mask)
            normed.append(self.norm(x))
        normed = normed[-1:] if last else normed
        return torch.cat([self.classes(x) for x in normed]), torch.cat([self.masks(x, embedding) for x in normed])

    def masks(self, x: Float[Tensor, "b queries c"], embedding: Float[Tensor, "b c h w"]) -> Tensor:
        """Mask logits of queries whose norm was taken."""
        return (self.embedding(x) @ embedding.flatten(2)).unflatten(-1, embedding.shape[-2:])

    @torch.no_grad()
    def looked_at(
        self, x: Float[Tensor, "b queries c"], embedding: Float[Tensor, "b c h w"]
    ) -> Bool[Tensor, "b 1 queries places"]:
        """The masks' foreground at the resolution of `embedding`."""
        return foreground(self.masks(x, embedding))


class Mask2Former(System):
    """Mask2Former for panoptic or instance segmentation. The defaults are the paper's with Swin-T, on COCO.

    trunk: `swin`, windows of 7 and heads of 32 channels, or `resnet`, of basic blocks; depths, width: its blocks and
    channels. channels: of decoders and embeddings, in heads of 32; hidden: of the decoder's feed-forward nets, half as
    many in the pixel decoder; layers: of the pixel decoder and of the decoder; points: at which masks are compared;
    masked: False for plain cross-attention; stuff: classes of which all segments of a picture are one, None for answers by
    instances.
    """

    answer = Panoptic

    def __init__(
        self,
        num_classes: int = 133,
        trunk: Literal["swin", "resnet"] = "swin",
        depths: list[int] = [2, 2, 6, 2],  # noqa: B006 - read only; a list so that JSON gives it back
        width: int = 96,
        channels: int = 256,
        hidden: int = 2048,
        layers: list[int] = [6, 9],  # noqa: B006
        queries: int = 100,
        points: int = 12544,
        masked: bool = True,
        stuff: list[int] | None = [0],  # noqa: B006
        image_size: int = 1024,
    ):
        super().__init__(InputContract(image_size, image_size))
        if len(depths) != 4:
            raise ValueError(f"depths: expected four stages, got {depths}")
        if image_size < 64:
            raise ValueError(f"image_size: expected at least 64, so that stride 32 leaves a map, got {image_size}")
        if len(layers) != 2 or min(layers) < 1:
            raise ValueError(f"layers: expected those of the pixel decoder and of the decoder, got {layers}")
        if not all(0 <= k < num_classes for k in stuff or []):
            raise ValueError(f"stuff: expected classes 0 to {num_classes - 1}, got {stuff}")
        if stuff is None:
            self.answer = Detections  # type: ignore[misc, assignment]
        self.num_classes, self.points, self.masked, self.stuff = num_classes, points, masked, stuff
        if trunk == "swin":
            heads = [max(1, width * 2**stage // HEAD_WIDTH) for stage in range(4)]
            self.trunk: Swin | ResNet = Swin(0, width, depths, heads, image_size=image_size)
            self.norms = nn.ModuleList(nn.LayerNorm(n) for n in self.trunk.channels)
            self.trunk.norm = nn.Identity()  # type: ignore[assignment]  # each map has a norm of its own
        elif trunk == "resnet":
            self.trunk = ResNet(0, depths, False, width, image_size=image_size)
            self.norms = nn.ModuleList()
        else:
            raise ValueError(f"trunk: expected swin or resnet, got {trunk!r}")
        heads_of_decoder = max(1, channels // HEAD_WIDTH)
        self.pixels = DeformablePixelDecoder(self.trunk.channels, channels, heads_of_decoder, hidden // 2, layers[0])
        self.decoder = MaskedDecoder(channels, heads_of_decoder, hidden, layers[1], queries, num_classes)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The trunk's maps, finest first; Swin's normed."""
        maps = self.trunk.features(self.normalize(image))
        if not self.norms:
            return maps
        return [n(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for n, x in zip(self.norms, maps, strict=True)]

    def answers(self, image: Float[Tensor, "b c h w"], last: bool = False) -> tuple[Tensor, Tensor]:
        """Class scores and mask logits at stride 4 of all layers, as `MaskedDecoder` gives them."""
        return self.decoder(*self.pixels(self.features(image)), self.masked, last)

    def forward(self, image: Float[Tensor, "b c h w"]) -> tuple[Tensor, ...]:
        """Each pixel's query + 1, 0 for none; each query's class; its score, 0 where nothing of it remains.

        With `stuff=None` boxes, scores, labels and masks, as `best_instances` gives them.
        """
        logits, masks = self.answers(image, last=True)
        masks = F.interpolate(masks, size=image.shape[-2:], mode="bilinear", align_corners=False)
        if self.stuff is None:
            return best_instances(logits, masks)
        return panoptic_segments(logits, masks, self.stuff)

    def loss(self, batch: Batch) -> Losses:
        truth, labels, real = true_segments(batch, self.num_classes)
        logits, masks = self.answers(batch.pictures)
        layers = len(logits) // len(truth)
        truth, labels, real = truth.repeat(layers, 1, 1, 1), labels.repeat(layers, 1), real.repeat(layers, 1)
        losses = point_losses(logits, masks, truth, labels, real, self.points)
        return {name: layers * value for name, value in losses.items()}  # the sum over layers of their means

    def predict(self, batch: Batch) -> list[Panoptic] | list[Detections]:
        if self.stuff is None:
            return answers(self(batch.image), self.class_names, "masks")
        return panoptic_answers(self(batch.image), self.class_names)
