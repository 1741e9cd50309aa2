r"""What the top-down path of a feature pyramid gives small objects: a one-stage detector with it and without.

    python benchmarks/feature_pyramid.py --seeds 3 --steps 800

Both detectors are one: a ResNet trunk, the lateral and smoothing convolutions of `FeaturePyramid`, one shared dense head
with class scores and boxes at every anchor. Only the addition of the coarser map is left out in the second, as in SSD,
where every level sees what its own depth of the trunk sees. Scenes of the World with objects from 5 to 40 pixels.
Prints COCO's AP by size for each seed, and the mean gain.
"""

from __future__ import annotations

import argparse
import json
import statistics

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from oculi.backbones.resnet import ResNet
from oculi.data.datasets import Splits
from oculi.data.sources import open_data
from oculi.input_contract import InputContract
from oculi.learn.learner import Training, fit, seed_everything
from oculi.learn.protocols.detection import score
from oculi.nn.fpn import FeaturePyramid
from oculi.ops.anchors import cell_anchors, grid_anchors, match
from oculi.ops.boxes import box_iou, clip, decode, encode
from oculi.ops.nms import surviving
from oculi.predictions import Detections
from oculi.system import System
from oculi.types import Batch, Losses

RATIOS, MOST = [0.5, 1.0, 2.0], 100


class OneStage(System):
    """A dense detector on a pyramid; `top_down=False` leaves out the path from coarse to fine."""

    answer = Detections

    def __init__(
        self, num_classes: int = 5, channels: int = 48, width: int = 16, top_down: bool = True, image_size: int = 64
    ):
        super().__init__(InputContract(image_size, image_size))
        self.num_classes, self.top_down = num_classes, top_down
        self.trunk = ResNet(0, [1, 1, 1, 1], width=width, stem="small", image_size=image_size)
        self.pyramid = FeaturePyramid(self.trunk.channels[1:], channels)
        self.tower = nn.Conv2d(channels, channels, 3, padding=1)
        self.classes = nn.Conv2d(channels, len(RATIOS) * num_classes, 1)
        self.deltas = nn.Conv2d(channels, len(RATIOS) * 4, 1)
        nn.init.constant_(self.classes.bias, -4.0)  # type: ignore[arg-type] - rare objects, as in RetinaNet
        self.cells = [cell_anchors([size], RATIOS) for size in (8, 16, 32)]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits `b x n x classes`, deltas `b x n x 4` and the anchors `n x 4`."""
        stages = self.trunk.features(self.normalize(image))[1:]
        if self.top_down:
            maps = self.pyramid(stages)
        else:
            layers = zip(self.pyramid.lateral, self.pyramid.smooth, stages, strict=True)
            maps = [smooth(lateral(x)) for lateral, smooth, x in layers]
        shared = [F.relu(self.tower(x)) for x in maps]
        logits, deltas = (
            torch.cat([layer(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, width)) for x in shared], 1)
            for layer, width in ((self.classes, self.num_classes), (self.deltas, 4))
        )
        levels = zip(self.cells, maps, self.trunk.strides[1:], strict=True)
        anchors = [grid_anchors(cells, x.shape[-2], x.shape[-1], stride) for cells, x, stride in levels]
        return logits, deltas, torch.cat(anchors)

    def loss(self, batch: Batch) -> Losses:
        assert batch.boxes is not None
        assert batch.labels is not None
        logits, deltas, anchors = self(batch.pictures)
        truth = pad_sequence([F.pad(b, (0, 0, 0, 1)) for b in batch.boxes], batch_first=True)
        kinds = pad_sequence([F.pad(k, (0, 1)) for k in batch.labels], batch_first=True)
        real = pad_sequence([F.pad(torch.ones(len(k)).bool(), (0, 1)) for k in batch.labels], batch_first=True)
        overlaps = box_iou(truth, anchors.expand(len(truth), -1, -1)).masked_fill(~real[..., None], -1)
        matched = match(overlaps, 0.5, 0.4, rescue=True)
        row, column = (matched >= 0).nonzero(as_tuple=True)
        wanted = torch.zeros_like(logits)
        wanted[row, column, kinds[row, matched[row, column]]] = 1
        clear = (matched != -2)[..., None]
        p = logits.sigmoid()
        focus = torch.where(wanted > 0, 0.25 * (1 - p) ** 2, 0.75 * p**2)  # focal loss
        cross_entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        boxes = F.smooth_l1_loss(
            deltas[row, column], encode(truth[row, matched[row, column]], anchors[column]), beta=0.1, reduction="sum"
        )
        count = max(1, len(row))
        return {"classes": (focus * cross_entropy * clear).sum() / count, "boxes": boxes / count}

    def predict(self, batch: Batch) -> list[Detections]:
        logits, deltas, anchors = self(batch.pictures)
        scores, index = logits.sigmoid().flatten(1).topk(300, 1)
        label, place = index % self.num_classes, index // self.num_classes
        rows = torch.arange(len(scores))[:, None]
        boxes = clip(decode(deltas[rows, place], anchors[place]), *batch.pictures.shape[-2:])
        kept = surviving(boxes, scores, label, 0.5)
        return [
            Detections(b[k][:MOST], s[k][:MOST], c[k][:MOST])
            for b, s, c, k in zip(boxes, scores, label, kept, strict=True)
        ]


def learned(system: System, splits: Splits, steps: int, seed: int) -> dict[str, float]:
    """COCO's figures on the test pictures, after so many steps."""
    training = Training(
        steps=steps, batch_size=8, optimizer="adamw", lr=0.002, weight_decay=0.01, warmup=50, schedule="cosine", clip=5.0,
        seed=seed, augment={"flip": 0.5},
    )  # fmt: skip
    fit(system, training, splits, progress=False)
    return score(system, splits, "test")


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=800)
    options = parser.parse_args()
    splits = open_data("world", task="detection", size=64, train=3000, validation=10, test=300, radius=[0.3, 2.0])
    gains = []
    for seed in range(options.seeds):
        found = {}
        for top_down in (True, False):
            seed_everything(seed)
            system = OneStage(top_down=top_down)
            figures = learned(system, splits, options.steps, seed)
            found[top_down] = {
                name: round(figures[name], 4) for name in ("map", "map_small", "map_medium", "map_large")
            }
            print(json.dumps({"seed": seed, "top_down": top_down, **found[top_down]}), flush=True)
        gains.append({name: found[True][name] - found[False][name] for name in found[True]})
    mean = {name: round(statistics.mean(gain[name] for gain in gains), 4) for name in gains[0]}
    print(json.dumps({"gain": mean, "seeds": options.seeds, "steps": options.steps}))


if __name__ == "__main__":
    main()
