r"""SSD: independent predictions from maps of several resolutions, each with default boxes of its own size.

    image      batch x C x H x W
    stages     VGG's 3x3 convolutions, 2x2 max pooling between; the next to last, its channels scaled to length 20 at
               first, is the finest map
    fc6, fc7   behind the last stage and a 3x3 pooling of stride 1: a dilated 3x3 convolution and a 1x1, the second map
    extras     1x1 and 3x3 convolutions, each pair a coarser map, of stride 2 or without padding
    outputs    a 3x3 convolution per map: for every default box C + 1 scores (the last is background) and four deltas

Of scales s_1 .. s_m and s_(m+1), shares of the picture's side, level k has boxes of s_k, sqrt(s_k s_(k+1)) and, for
each ratio a, s_k sqrt(a) by s_k / sqrt(a) and the same upright, round the centre of each cell. A default box is an
object's from IoU 0.5, and each object's best box is its own. Both losses are divided by the number n of those boxes:

    boxes      sum of smooth L1 of the deltas, those times (10, 10, 5, 5)
    classes    sum of cross-entropy of the n boxes and of the 3 n background boxes with the largest loss, per picture

The 400 best scores above 0.01 of each class go through NMS at 0.45, the best 200 are the answer.

Differs from the paper in how it begins, for training from scratch and for narrow networks: with `norm` batch norm stands
behind the convolutions of the stages, and the predicting layers begin near 0, as the finest map's length of 20 would
otherwise make them sure of anything.

Liu, Anguelov, Erhan, Szegedy, Reed, Fu, Berg: SSD: Single Shot MultiBox Detector, 2015, arXiv:1512.02325.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.convolution import conv_relu, kaiming_init
from oculi.nn.detection import Found, answers, by_cell, objects_of, separate
from oculi.ops.anchors import BACKGROUND, match
from oculi.ops.boxes import box_iou, clip, decode, encode
from oculi.predictions import Detections
from oculi.system import System
from oculi.types import Batch, Losses

WEIGHTS, FOREGROUND, NEGATIVES, LENGTH = (10, 10, 5, 5), 0.5, 3, 20.0
LEAST_SCORE, OVERLAP, MOST_CANDIDATES, MOST_DETECTIONS = 0.01, 0.45, 400, 200


def default_boxes(scale: float, following: float, ratios: list[int]) -> Float[Tensor, "boxes 2"]:
    """Widths and heights as shares of the picture's, at most 1: square, a little larger, then of each ratio.

    >>> default_boxes(0.25, 1.0, [4])
    tensor([[0.2500, 0.2500],
            [0.5000, 0.5000],
            [0.5000, 0.1250],
            [0.1250, 0.5000]])
    """
    pairs = [(scale, scale), ((scale * following) ** 0.5,) * 2]
    for ratio in ratios:
        long, short = scale * ratio**0.5, scale / ratio**0.5
        pairs += [(long, short), (short, long)]
    return torch.tensor(pairs).clamp(0, 1)


def match_with_best(overlaps: Float[Tensor, "b objects n"], real: Bool[Tensor, "b objects"]) -> Int[Tensor, "b n"]:
    """The object of each default box or BACKGROUND; each object has its best box, the later where two want the same."""
    matched = match(overlaps, FOREGROUND, FOREGROUND)
    number = torch.arange(real.shape[1], device=real.device).expand(real.shape)
    claimed = torch.full_like(matched, BACKGROUND)
    claimed = claimed.scatter_reduce(1, overlaps.argmax(2), torch.where(real, number, BACKGROUND), "amax")
    return torch.where(claimed >= 0, claimed, matched)


def hardest(losses: Float[Tensor, "b n"], positive: Bool[Tensor, "b n"], ratio: int = NEGATIVES) -> Bool[Tensor, "b n"]:
    """The negatives of largest loss, `ratio` of them for each positive of the same picture.

    >>> hardest(torch.tensor([[9.0, 1, 3, 2, 4]]), torch.tensor([[True, False, False, False, False]]), 2)
    tensor([[False, False,  True, False,  True]])
    """
    rank = losses.masked_fill(positive, -torch.inf).argsort(1, descending=True).argsort(1)
    return (rank < ratio * positive.sum(1, keepdim=True)) & ~positive


class SSD(System):
    """SSD. The defaults are SSD300 with VGG-16.

    depths, width: convolutions of each stage and channels of the first; norm: batch norm behind them; dilation: of fc6.
    extras: one number per coarser map, 2 for stride 2, 1 for a 3x3 convolution without padding. scales: of each level
    and one more; ratios: of each level; strides: of each level in pixels, by default the picture's side over the map's.
    """

    answer = Detections

    def __init__(
        self,
        num_classes: int = 80,
        depths: list[int] = [2, 2, 3, 3, 3],  # noqa: B006 - read only; a list so that JSON gives it back
        width: int = 64,
        norm: bool = False,
        dilation: int = 6,
        extras: list[int] = [2, 2, 1, 1],  # noqa: B006
        scales: list[float] = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],  # noqa: B006
        ratios: list[list[int]] = [[2], [2, 3], [2, 3], [2, 3], [2], [2]],  # noqa: B006
        strides: list[int] | None = None,
        in_channels: int = 3,
        image_size: int = 300,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        levels = 2 + len(extras)
        if len(depths) < 2 or num_classes < 1:
            raise ValueError(
                f"depths, num_classes: expected two stages and a class at least, got {depths}, {num_classes}"
            )
        for name, given, wanted in (("scales", scales, levels + 1), ("ratios", ratios, levels)):
            if len(given) != wanted:
                raise ValueError(f"{name}: expected {wanted} for {levels} levels, got {given}")
        if strides is not None and len(strides) != levels:
            raise ValueError(f"strides: expected {levels}, one per level, got {strides}")
        self.num_classes, self.strides = num_classes, strides
        self.stages, inputs = nn.ModuleList(), in_channels
        for index, depth in enumerate(depths):
            sizes = [inputs] + [width * min(2**index, 8)] * depth
            self.stages.append(nn.Sequential(*(conv_relu(a, b, 3, norm=norm) for a, b in pairwise(sizes))))
            finest, inputs = inputs, sizes[-1]
        middle = 2 * inputs
        self.fc = nn.Sequential(
            nn.Conv2d(inputs, middle, 3, padding=dilation, dilation=dilation), nn.ReLU(inplace=True),
            conv_relu(middle, middle, 1, norm=norm),
        )  # fmt: skip
        self.length = nn.Parameter(torch.full((finest,), LENGTH))
        self.extras, channels = nn.ModuleList(), [finest, middle]
        for index, stride in enumerate(extras):
            narrow = width * (4 if index == 0 else 2)
            pair = conv_relu(channels[-1], narrow, 1), conv_relu(narrow, 2 * narrow, 3, stride, int(stride > 1))
            self.extras.append(nn.Sequential(*pair))
            channels.append(2 * narrow)
        self.sizes = [default_boxes(*pair, of) for pair, of in zip(pairwise(scales), ratios, strict=True)]
        wide = list(zip(channels, self.sizes, strict=True))
        self.classes = nn.ModuleList(nn.Conv2d(n, len(own) * (num_classes + 1), 3, padding=1) for n, own in wide)
        self.deltas = nn.ModuleList(nn.Conv2d(n, len(own) * 4, 3, padding=1) for n, own in wide)
        kaiming_init(self)
        for part in (self.fc, self.extras, self.classes, self.deltas):
            for layer in (m for m in part.modules() if isinstance(m, nn.Conv2d)):
                if part in (self.fc, self.extras):
                    nn.init.xavier_uniform_(layer.weight)
                else:
                    nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The maps of all levels, finest first."""
        x = self.normalize(image)
        for index, stage in enumerate(self.stages[:-1]):
            x = stage(F.max_pool2d(x, 2, ceil_mode=index == len(self.stages) - 2) if index else x)
        maps = [F.normalize(x) * self.length[:, None, None]]
        x = self.stages[-1](F.max_pool2d(x, 2))
        maps.append(self.fc(F.max_pool2d(x, 3, 1, padding=1)))
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return maps

    def anchors(self, maps: list[Tensor], image: Tensor) -> Float[Tensor, "n 4"]:
        """The default boxes of all levels in pixels, cell by cell, in the order of the outputs."""
        height, width = image.shape[-2:]
        found = []
        for level, (x, own) in enumerate(zip(maps, self.sizes, strict=True)):
            steps = [side / cells for side, cells in zip((height, width), x.shape[-2:], strict=True)]
            down, across = [self.strides[level]] * 2 if self.strides else steps
            rows, columns = (torch.arange(n, device=x.device) + 0.5 for n in x.shape[-2:])
            middle = torch.stack(torch.meshgrid(rows * down, columns * across, indexing="ij")[::-1], -1)
            half = own.to(x) * own.new_tensor([width, height]).to(x) / 2
            middle = middle[:, :, None].expand(-1, -1, len(half), -1)
            found.append(torch.cat([middle - half, middle + half], -1).reshape(-1, 4))
        return torch.cat(found)

    def dense(
        self, image: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b n scores"], Float[Tensor, "b n 4"], Float[Tensor, "n 4"]]:
        """Logits (background last), deltas and default boxes of all levels."""
        maps = self.features(image)
        logits, deltas = (
            torch.cat([by_cell(layer(x), width) for layer, x in zip(layers, maps, strict=True)], 1)
            for layers, width in ((self.classes, self.num_classes + 1), (self.deltas, 4))
        )
        return logits, deltas, self.anchors(maps, image)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Found:
        """Boxes, scores and labels of d detections, best first; what follows the last is 0."""
        logits, deltas, anchors = self.dense(image)
        boxes = clip(decode(deltas, anchors, WEIGHTS), *image.shape[-2:])
        scores = logits.softmax(-1)[..., :-1].transpose(1, 2)  # batch x classes x boxes
        score, place = (scores * (scores > LEAST_SCORE)).topk(min(MOST_CANDIDATES, scores.shape[2]), 2)
        label = torch.arange(self.num_classes, device=image.device)[:, None].expand(place.shape).flatten(1)
        rows = torch.arange(image.shape[0], device=image.device)[:, None]
        return separate(boxes[rows, place.flatten(1)], score.flatten(1), label, OVERLAP, MOST_DETECTIONS)

    def loss(self, batch: Batch) -> Losses:
        truth = objects_of(batch)
        logits, deltas, anchors = self.dense(batch.pictures)
        overlaps = box_iou(truth.boxes, anchors.expand(len(logits), -1, -1)).masked_fill(~truth.real[..., None], -1)
        matched = match_with_best(overlaps, truth.real)
        positive = matched >= 0
        row, place = positive.nonzero(as_tuple=True)
        own = matched[row, place]
        wanted = encode(truth.boxes[row, own], anchors[place], WEIGHTS)
        said = torch.full_like(matched, self.num_classes)
        said[row, place] = truth.kinds[row, own]
        each = F.cross_entropy(logits.flatten(0, 1), said.flatten(), reduction="none").reshape(said.shape)
        count = max(1, len(row))
        return {
            "classes": each[positive | hardest(each.detach(), positive)].sum() / count,
            "boxes": F.smooth_l1_loss(deltas[row, place], wanted, reduction="sum") / count,
        }

    def predict(self, batch: Batch) -> list[Detections]:
        return answers(self(batch.pictures), self.class_names)
