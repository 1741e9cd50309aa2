r"""RT-DETR: set prediction at the speed of one-stage detectors, for nothing is suppressed and only one scale attends.

    image        batch x C x H x W
    trunk        residual network, the last three maps, each 1x1 convolution to d channels
    encoder      self-attention on the coarsest map alone; then down the pyramid (upsampled, beside the trunk's map, three
                 convolution blocks of two branches) and up again (3x3 of stride 2, beside the map of that scale, the same)
    selection    every place of every scale scores the C classes and moves an anchor of its own, a square of 0.05, 0.1,
                 0.2 of the picture about its centre; the N of best score begin as queries, with their box as reference
    decoder      self-attention of the queries; deformable attention about the reference box over three scales; feed-
                 forward net; a correction of the box, which is the next layer's reference. Places are made of the box
    heads        each layer's own: C sigmoids per query, and the box

The answers of the selection and of every layer are matched at the least cost 2 focal + 5 |b - b'|_1 - 2 GIoU, and learn

    classes   cross-entropy with the overlap q of box and object as what the matched class should say, weighted by it;
              what should say 0 weighs 0.75 p²  (varifocal loss)
    boxes     5 |b - b'|_1          giou   2 (1 - GIoU)          sums over M, the number of objects

Denoising: while training, true objects are also given as queries, a quarter of them with another class, and boxes moved
by up to half their size (to be repaired) or by more (to be called nothing), in groups that see themselves alone. They
need no matching and teach the decoder early; `denoising` is about how many there are.

`stem="deep"` makes the trunk the paper's ResNet-D. Differs from the paper: the trunk's batch norm learns.

Zhao et al.: DETRs Beat YOLOs on Real-time Object Detection, 2023, arXiv:2304.08069. Zhang et al.: DINO, 2022,
arXiv:2203.03605. Zhang et al.: VarifocalNet, 2020, arXiv:2008.13367.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.backbones.resnet import ResNet
from oculi.input_contract import InputContract
from oculi.nn.convolution import conv_norm
from oculi.nn.cross_attention import CrossAttention
from oculi.nn.deformable_attention import DeformableAttention, Sizes, cell_centres
from oculi.nn.detection import objects_of
from oculi.nn.query_decoder import EncoderLayer, FeedForward, perceptron
from oculi.ops.assignment import Matching, assign
from oculi.ops.boxes import box_iou, clip, from_centres, generalized_box_iou, to_centres
from oculi.predictions import Detections
from oculi.system import System
from oculi.types import Batch, Losses

SCALES, ANCHOR, BORDER = 3, 0.05, 0.01
CLASS_COST, BOX_WEIGHT, GIOU_WEIGHT = 2.0, 5.0, 2.0
COST_ALPHA, COST_GAMMA, ALPHA, GAMMA = 0.25, 2.0, 0.75, 2.0
LABEL_NOISE, BOX_NOISE = 0.25, 1.0


def unsigmoid(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """log x / (1 - x), neither below 1e-5."""
    return torch.log(x.clamp_min(1e-5) / (1 - x).clamp_min(1e-5))


# losses --------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def match(
    logits: Float[Tensor, "b queries classes"],
    boxes: Float[Tensor, "b queries 4"],
    truth: Float[Tensor, "b truths 4"],
    labels: Int[Tensor, "b truths"],
    real: Bool[Tensor, "b truths"],
) -> Matching:
    """Which query stands for which object; boxes as centre and size in [0, 1]."""
    chance = logits.sigmoid().gather(2, labels[:, None].expand(-1, logits.shape[1], -1))
    yes = COST_ALPHA * (1 - chance) ** COST_GAMMA * -(chance + 1e-8).log()
    no = (1 - COST_ALPHA) * chance**COST_GAMMA * -(1 - chance + 1e-8).log()
    far = torch.cdist(boxes, truth, p=1)
    overlap = generalized_box_iou(from_centres(boxes), from_centres(truth))
    return assign(CLASS_COST * (yes - no) + BOX_WEIGHT * far - GIOU_WEIGHT * overlap, real)


def matched_losses(
    logits: Float[Tensor, "b queries classes"],
    boxes: Float[Tensor, "b queries 4"],
    truth: Float[Tensor, "b truths 4"],
    labels: Int[Tensor, "b truths"],
    found: Matching,
) -> Losses:
    """Varifocal loss of all queries and both box losses of the matched, summed."""
    given, wanted = boxes[found.picture, found.query], truth[found.picture, found.truth]
    corners, others = from_centres(given)[:, None], from_centres(wanted)[:, None]
    overlap = box_iou(corners.detach(), others)[:, 0, 0]
    kinds = labels[found.picture, found.truth]
    target, sure = torch.zeros_like(logits), torch.zeros_like(logits)
    sure[found.picture, found.query, kinds] = 1.0
    target[found.picture, found.query, kinds] = overlap
    weight = ALPHA * logits.detach().sigmoid() ** GAMMA * (1 - sure) + target
    return {
        "classes": F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum"),
        "boxes": BOX_WEIGHT * (given - wanted).abs().sum(),
        "giou": GIOU_WEIGHT * (1 - generalized_box_iou(corners, others)).sum(),
    }


# the encoder ---------------------------------------------------------------------------------------------------------


def conv_silu(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, x sigmoid(x)."""
    return nn.Sequential(*conv_norm(inputs, outputs, kernel, stride), nn.SiLU(inplace=True))


class TwoBranches(nn.Module):
    """A 3x3 and a 1x1 convolution, added."""

    def __init__(self, channels: int):
        super().__init__()
        self.wide, self.narrow = conv_norm(channels, channels, 3), conv_norm(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return F.silu(self.wide(x) + self.narrow(x))


class Fusion(nn.Module):
    """Two maps side by side become one: half of the way through three blocks, half past them."""

    def __init__(self, channels: int):
        super().__init__()
        self.through, self.past = conv_silu(2 * channels, channels, 1), conv_silu(2 * channels, channels, 1)
        self.blocks = nn.Sequential(*(TwoBranches(channels) for _ in range(3)))

    def forward(self, one: Float[Tensor, "b c h w"], other: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        both = torch.cat([one, other], 1)
        return self.blocks(self.through(both)) + self.past(both)


def wave_positions(
    height: int, width: int, channels: int, device: torch.device | None = None
) -> Float[Tensor, "places channels"]:
    """sin and cos of the row, then of the column, each times 10000^(-i / (channels / 4))."""
    quarter = channels // 4
    rate = 10000.0 ** -(torch.arange(quarter, dtype=torch.float32, device=device) / quarter)
    row = (torch.arange(height, device=device)[:, None] * rate)[:, None].expand(-1, width, -1)
    column = (torch.arange(width, device=device)[:, None] * rate)[None].expand(height, -1, -1)
    return torch.cat([row.sin(), row.cos(), column.sin(), column.cos()], -1).flatten(0, 1)


class HybridEncoder(nn.Module):
    """Maps of three scales, finest first, that have seen one another."""

    def __init__(self, inputs: list[int], channels: int, heads: int, hidden: int):
        super().__init__()
        self.project = nn.ModuleList(conv_norm(n, channels, 1) for n in inputs)
        self.within = EncoderLayer(channels, heads, hidden, smooth=True)
        self.lateral = nn.ModuleList(conv_silu(channels, channels, 1) for _ in inputs[1:])
        self.down = nn.ModuleList(Fusion(channels) for _ in inputs[1:])
        self.shrink = nn.ModuleList(conv_silu(channels, channels, 3, 2) for _ in inputs[1:])
        self.up = nn.ModuleList(Fusion(channels) for _ in inputs[1:])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [project(x) for project, x in zip(self.project, maps, strict=True)]
        size, channels = maps[-1].shape[-2:], maps[-1].shape[1]
        places = wave_positions(size[0], size[1], channels, maps[-1].device)[None]
        x = self.within(maps[-1].flatten(2).transpose(1, 2), places).transpose(1, 2).unflatten(2, size)
        coarse = []
        for lateral, fuse, finer in zip(self.lateral, self.down, maps[-2::-1], strict=True):
            coarse.append(lateral(x))
            x = fuse(F.interpolate(coarse[-1], size=finer.shape[-2:], mode="nearest"), finer)
        found = [x]
        for shrink, fuse, coarser in zip(self.shrink, self.up, coarse[::-1], strict=True):
            found.append(fuse(shrink(found[-1]), coarser))
        return found


# the decoder ---------------------------------------------------------------------------------------------------------


class RefiningLayer(nn.Module):
    """Queries look at one another and about their boxes; then say their class and correct their box."""

    def __init__(self, width: int, heads: int, hidden: int, num_classes: int):
        super().__init__()
        self.among, self.among_norm = CrossAttention(width, heads), nn.LayerNorm(width)
        self.about, self.about_norm = DeformableAttention(width, heads, SCALES), nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, hidden)
        self.classes, self.box = nn.Linear(width, num_classes), perceptron(width, width, 4)
        start_rare(self.classes, num_classes)
        start_still(self.box)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        own: Float[Tensor, "b n d"],
        reference: Float[Tensor, "b n 4"],
        picture: Float[Tensor, "b m d"],
        sizes: Sizes,
        mask: Tensor | None,
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n 4"]]:
        placed = x + own
        x = self.among_norm(x + self.among(placed, placed, x, mask))
        x = self.about_norm(x + self.about(x + own, reference, picture, sizes))
        x = self.feed_forward(x)
        return x, (self.box(x) + unsigmoid(reference)).sigmoid()


def start_rare(layer: nn.Linear, num_classes: int) -> None:
    """At first every class has the chance 1 / (C + 1)."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.constant_(layer.bias, -math.log(num_classes))


def start_still(head: nn.Sequential) -> None:
    """At first nothing is corrected."""
    for name in ("weight", "bias"):
        nn.init.zeros_(getattr(head[-1], name))


class RTDETR(System):
    """RT-DETR. The defaults are the paper's with ResNet-50.

    depths, bottleneck, width, stem: the trunk, see ResNet, of at least three stages. channels: d; heads, hidden: of attention
    and feed-forward nets; layers: of the decoder; queries: places that are selected; denoising: see above.
    """

    answer = Detections

    def __init__(
        self,
        num_classes: int = 80,
        depths: list[int] = [3, 4, 6, 3],  # noqa: B006 - read only; a list so that JSON gives it back
        bottleneck: bool = True,
        width: int = 64,
        channels: int = 256,
        heads: int = 8,
        hidden: int = 1024,
        layers: int = 6,
        queries: int = 300,
        denoising: int = 100,
        stem: Literal["imagenet", "deep"] = "imagenet",
        image_size: int = 640,
    ):
        super().__init__(InputContract(image_size, image_size))
        if len(depths) < SCALES:
            raise ValueError(f"depths: expected at least {SCALES} stages, got {depths}")
        if num_classes < 1 or layers < 1 or queries < 1:
            raise ValueError(
                f"num_classes, layers, queries: expected at least 1 of each, got {num_classes}, {layers}, {queries}"
            )
        self.num_classes, self.queries, self.denoising = num_classes, queries, denoising
        self.trunk = ResNet(0, depths, bottleneck, width, stem, image_size=image_size)
        self.encoder = HybridEncoder(self.trunk.channels[-SCALES:], channels, heads, hidden)
        self.project = nn.ModuleList(conv_norm(channels, channels, 1) for _ in range(SCALES))
        self.offered = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.classes, self.box = nn.Linear(channels, num_classes), perceptron(channels, channels, 4)
        start_rare(self.classes, num_classes)
        start_still(self.box)
        self.places = perceptron(4, 2 * channels, channels, 2)
        self.layers = nn.ModuleList(RefiningLayer(channels, heads, hidden, num_classes) for _ in range(layers))
        if denoising:
            self.known = nn.Embedding(num_classes + 1, channels, padding_idx=num_classes)

    # from pictures to queries -----------------------------------------------------------------------------------------

    def memory(self, image: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b places d"], Sizes]:
        """All places of the three scales, finest first, and the scales' sizes."""
        maps = self.encoder(self.trunk.features(self.normalize(image))[-SCALES:])
        maps = [project(x) for project, x in zip(self.project, maps, strict=True)]
        flat = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
        return flat, [(x.shape[-2], x.shape[-1]) for x in maps]

    def select(self, memory: Float[Tensor, "b places d"], sizes: Sizes) -> tuple[Tensor, Tensor, Tensor]:
        """The queries that begin, their class scores and their boxes before the sigmoid."""
        sides = [ANCHOR * 2**level for level, (h, w) in enumerate(sizes) for _ in range(h * w)]
        side = memory.new_tensor(sides)[None, :, None].expand(-1, -1, 2)
        anchors = torch.cat([cell_centres(sizes, memory.device), side], -1)
        solid = ((anchors > BORDER) & (anchors < 1 - BORDER)).all(-1, keepdim=True)
        offered = self.offered(memory * solid)
        logits = self.classes(offered)
        boxes = self.box(offered) + torch.where(solid, torch.log(anchors / (1 - anchors)), 1e4)
        best = logits.amax(-1).topk(min(self.queries, logits.shape[1]), 1).indices[..., None]
        first, second, third = (x.gather(1, best.expand(-1, -1, x.shape[-1])) for x in (offered, logits, boxes))
        return first, second, third

    def refine(
        self,
        x: Float[Tensor, "b n d"],
        reference: Float[Tensor, "b n 4"],
        memory: Float[Tensor, "b places d"],
        sizes: Sizes,
        mask: Tensor | None = None,
    ) -> tuple[list[Float[Tensor, "b n d"]], list[Float[Tensor, "b n 4"]]]:
        """The queries and their boxes after each layer."""
        found, boxes = [], []
        for layer in self.layers:
            x, box = layer(x, self.places(reference), reference, memory, sizes, mask)
            found.append(x)
            boxes.append(box)
            reference = box.detach()
        return found, boxes

    def last(self, image: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor]:
        """Class scores and boxes (centre and size in [0, 1]) of the last layer."""
        memory, sizes = self.memory(image)
        x, _, first = self.select(memory, sizes)
        found, boxes = self.refine(x, first.sigmoid(), memory, sizes)
        return self.layers[-1].classes(found[-1]), boxes[-1]  # type: ignore[operator]

    def forward(
        self, image: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b n 4"], Float[Tensor, "b n"], Int[Tensor, "b n"]]:
        """The n best pairs of query and class: boxes in pixels, scores, labels."""
        logits, boxes = self.last(image)
        height, width = image.shape[-2:]
        scores, index = logits.sigmoid().flatten(1).topk(logits.shape[1], 1)
        query, label = index // self.num_classes, index % self.num_classes
        boxes = from_centres(boxes) * boxes.new_tensor([width, height, width, height])
        return clip(boxes.gather(1, query[..., None].expand(-1, -1, 4)), height, width), scores, label

    # the loss ---------------------------------------------------------------------------------------------------------

    def noisy(
        self, truth: Float[Tensor, "b g 4"], labels: Int[Tensor, "b g"], real: Bool[Tensor, "b g"]
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n 4"], Matching]:
        """Denoising queries, their boxes before the sigmoid, and what the first half of each group should become."""
        most = truth.shape[1]
        groups = max(1, self.denoising // most)
        kinds = torch.where(real, labels, self.num_classes).repeat(1, 2 * groups)
        other = torch.randint_like(kinds, self.num_classes)
        swapped = (torch.rand(kinds.shape, device=kinds.device) < LABEL_NOISE) & (kinds < self.num_classes)
        given = truth.repeat(1, 2 * groups, 1)
        worse = (torch.arange(2 * groups * most, device=given.device) // most % 2)[:, None]
        shift = (torch.rand_like(given) + worse) * (torch.randint_like(given, 2) * 2 - 1)
        moved = from_centres(given) + BOX_NOISE * shift * 0.5 * given[..., 2:].repeat(1, 1, 2)
        picture, group, index = real[:, None].expand(-1, groups, -1).nonzero(as_tuple=True)
        found = Matching(picture, group * 2 * most + index, index)
        return self.known(torch.where(swapped, other, kinds)), unsigmoid(to_centres(moved.clamp(0, 1))), found

    def apart(self, noisy: int, most: int, queries: int, device: torch.device) -> Bool[Tensor, "n n"]:
        """Who may look at whom: groups of 2 * most at themselves and at the queries, queries at queries alone."""
        group = torch.arange(noisy + queries, device=device) // (2 * most)
        real = torch.arange(noisy + queries, device=device) >= noisy
        return real[None] | (~real[:, None] & (group[:, None] == group[None]))

    def loss(self, batch: Batch) -> Losses:
        boxes, labels, real = objects_of(batch)
        height, width = batch.pictures.shape[-2:]
        most = max(1, labels.shape[1] - 1)  # `objects_of` adds one row
        scale = batch.pictures.new_tensor([width, height, width, height])
        truth, labels, real = to_centres(boxes)[:, :most] / scale, labels[:, :most], real[:, :most]
        memory, sizes = self.memory(batch.pictures)
        x, first, boxes = self.select(memory, sizes)
        logits, answers, mask, noisy = [first], [boxes.sigmoid()], None, 0
        x, reference = x.detach(), boxes.detach()
        if self.denoising and self.training:
            extra, around, known = self.noisy(truth, labels, real)
            noisy = extra.shape[1]
            x, reference = torch.cat([extra, x], 1), torch.cat([around, reference], 1)
            mask = self.apart(noisy, most, first.shape[1], x.device)[None, None]
        decoded, refined = self.refine(x, reference.sigmoid(), memory, sizes, mask)
        said = [layer.classes(y) for layer, y in zip(self.layers, decoded, strict=True)]  # type: ignore[operator]
        logits += [y[:, noisy:] for y in said]
        answers += [y[:, noisy:] for y in refined]
        times = len(logits)
        every = torch.cat(logits), torch.cat(answers), truth.repeat(times, 1, 1), labels.repeat(times, 1)
        losses = matched_losses(*every, match(*every, real.repeat(times, 1)))
        count = real.sum().clamp_min(1)
        losses = {name: value / count for name, value in losses.items()}
        if noisy:
            groups = noisy // (2 * most)
            for y, box in zip(said, refined, strict=True):
                one = matched_losses(y[:, :noisy], box[:, :noisy], truth, labels, known)
                for name, value in one.items():
                    losses[name] = losses[name] + value / (count * groups)
        return losses

    def predict(self, batch: Batch) -> list[Detections]:
        return [Detections(b, s, k, names=self.class_names) for b, s, k in zip(*self(batch.image), strict=True)]
