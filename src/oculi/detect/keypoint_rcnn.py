r"""Keypoint R-CNN: Faster R-CNN whose regions also get a heatmap per keypoint; pose estimation by detection.

    detector       Faster R-CNN: its pyramid, its proposals, its boxes and classes
    RoIAlign       14 x 14 bins of each foreground region in training, of each detection when answering
    keypoint head  eight 3x3 convolutions with ReLU, a 4x4 transposed convolution of stride 2, bilinear to 56 x 56
    keypoints      loss: cross-entropy over the 56^2 cells of each map, the cell that the keypoint falls in being true

A keypoint counts in the loss when it is labelled and inside the region. An answer's keypoint is where its map, at the
detection's own resolution, is largest; its score is the share of the map's softmax in the best cell.

Differs from torchvision in that score, which there is the logit.

He, Gkioxari, Dollar, Girshick: Mask R-CNN, 2017, arXiv:1703.06870.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.detect.faster_rcnn import FasterRCNN
from oculi.input_contract import InputContract
from oculi.nn.detection import answers, objects_of, padded
from oculi.nn.regions import Pooling, Regions, fan_out_init
from oculi.ops.heatmaps import heatmap_cells, heatmap_peaks
from oculi.predictions import Detections
from oculi.system import System
from oculi.types import Batch, Losses

POINT_BINS, LAYERS, CELLS = 14, 8, 56


class KeypointHead(nn.Module):
    """A fully convolutional network: a map of logits per keypoint, four times as fine as the pooled region."""

    def __init__(self, channels: int, width: int, keypoints: int):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels if i == 0 else width, width, 3, padding=1) for i in range(LAYERS))
        self.up = nn.ConvTranspose2d(width, keypoints, 4, 2, padding=1)
        fan_out_init(self)

    def forward(self, regions: Float[Tensor, "n c bins bins"]) -> Float[Tensor, "n keypoints cells cells"]:
        x = regions
        for conv in self.convs:
            x = F.relu(conv(x))
        return F.interpolate(self.up(x), size=(CELLS, CELLS), mode="bilinear")


class KeypointRCNN(System):
    """Keypoint R-CNN with a feature pyramid. The defaults are those of torchvision's with ResNet-18.

    keypoints: per object, the same for every class. hidden: of the box head, the keypoint head has half as many channels;
    pooling: see `oculi.nn.regions`; the rest: see FasterRCNN.
    """

    answer = Detections

    def __init__(
        self,
        num_classes: int = 1,
        keypoints: int = 17,
        depths: list[int] = [2, 2, 2, 2],  # noqa: B006 - read only; a list so that JSON gives it back
        bottleneck: bool = False,
        width: int = 64,
        stem: Literal["imagenet", "small"] = "imagenet",
        channels: int = 256,
        hidden: int = 1024,
        anchors: list[int] = [32, 64, 128, 256, 512],  # noqa: B006
        proposals: int = 1000,
        pooling: Pooling = "align",
        image_size: int = 512,
    ):
        super().__init__(InputContract(image_size, image_size))
        if keypoints < 1 or hidden < 2:
            raise ValueError(f"keypoints, hidden: expected at least 1 and 2, got {keypoints} and {hidden}")
        self.detector = FasterRCNN(
            num_classes, depths, bottleneck, width, stem, channels, hidden, anchors, proposals, image_size=image_size
        )
        self.detector.pooling = pooling
        self.points = KeypointHead(channels, hidden // 2, keypoints)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The pyramid's maps, finest first."""
        return self.detector.features(self.normalize(image))

    def forward(
        self, image: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b d 4"], Float[Tensor, "b d"], Int[Tensor, "b d"], Float[Tensor, "b d k 3"]]:
        """Boxes, scores, labels and keypoints (x, y, score) of d detections, best first; what follows the last is 0."""
        maps, size = self.features(image), image.shape[-2:]
        boxes, scores, labels = self.detector.detect(maps, list(size))
        heat = self.points(self.detector.pool(maps, boxes, POINT_BINS))
        places = heatmap_peaks(heat, boxes.flatten(0, 1), size[0], size[1])
        share = heat.flatten(2).softmax(-1).amax(-1, keepdim=True)
        points = torch.cat([places, share], -1).unflatten(0, scores.shape)
        return boxes, scores, labels, points * (scores > 0)[..., None, None]

    def loss(self, batch: Batch) -> Losses:
        if batch.keypoints is None:
            raise ValueError("batch.keypoints: expected the keypoints of each object, got None")
        truth, maps = objects_of(batch), self.features(batch.pictures)
        losses, regions = self.detector.learn(maps, truth, list(batch.pictures.shape[-2:]))
        return losses | {"keypoints": self.keypoint_loss(maps, regions.foreground(), padded(batch.keypoints))}

    def keypoint_loss(
        self, maps: list[Tensor], regions: Regions, keypoints: Float[Tensor, "b g k 3"]
    ) -> Float[Tensor, ""]:
        """Mean over the labelled keypoints inside foreground regions; 0 where there is none."""
        chosen = regions.positive
        rows = torch.arange(len(keypoints), device=keypoints.device)[:, None].expand_as(chosen)[chosen]
        heat = self.points(self.detector.pool(maps, regions.boxes, POINT_BINS)[chosen.flatten()])
        wanted, valid = heatmap_cells(keypoints[rows, regions.object[chosen]], regions.boxes[chosen], CELLS)
        total = F.cross_entropy(heat.flatten(2)[valid], wanted[valid], reduction="sum")
        return total / valid.sum().clamp_min(1)

    def predict(self, batch: Batch) -> list[Detections]:
        return answers(self(batch.image), self.class_names, "keypoints")
