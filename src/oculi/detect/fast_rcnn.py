r"""Fast R-CNN: one look at the picture for all regions, and one network in place of a classifier and a regressor.

    proposals    from outside: selective search, remembered by picture; no gradient, nothing learned
    trunk        residual network; its last stage is the one map that all regions share
    RoI pooling  7 x 7 bins of each region, snapped to whole cells
    head         two fully connected layers, then C + 1 scores (the last is background) and 4 C deltas, four per class

Losses, sampling and answers are those of `oculi.nn.regions`, as in Faster R-CNN, whose second stage this is: `classes`,
cross-entropy of sampled regions, a quarter of them foreground, and `boxes`, smooth L1 of the true class's deltas.

Differs from the paper in the trunk (residual, with batch norm) and as torchvision does: the true boxes are among the
regions to learn from, background is all that overlaps by less than 0.5, weighted deltas, beta 1/9.

Girshick: Fast R-CNN, 2015, arXiv:1504.08083.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from oculi.backbones.resnet import ResNet
from oculi.detect.selective_search import SelectiveSearch
from oculi.input_contract import InputContract
from oculi.nn.detection import answers, objects_of
from oculi.nn.regions import (
    WEIGHTS,
    BoxHead,
    Pooling,
    best_detections,
    pool_regions,
    region_losses,
    sample_regions,
)
from oculi.ops.boxes import clip, decode
from oculi.predictions import Detections
from oculi.system import System
from oculi.types import Batch, Losses


class FastRCNN(System):
    """Fast R-CNN on the map of a residual network's last stage.

    depths, bottleneck, width, stem: the trunk, see ResNet. hidden: of the two-layer head. proposals: at most so many of
    selective search's; sampled: regions of a picture to learn from at a time. pooling: the paper's is `pool`.
    """

    answer = Detections

    def __init__(
        self,
        num_classes: int = 20,
        depths: list[int] = [2, 2, 2],  # noqa: B006 - read only; a list so that JSON gives it back
        bottleneck: bool = False,
        width: int = 64,
        stem: Literal["imagenet", "small"] = "imagenet",
        hidden: int = 1024,
        proposals: int = 2000,
        sampled: int = 64,
        pooling: Pooling = "pool",
        in_channels: int = 3,
        image_size: int = 512,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if num_classes < 1 or proposals < 1 or sampled < 4:
            given = f"{num_classes}, {proposals} and {sampled}"
            raise ValueError(f"num_classes, proposals, sampled: expected at least 1, 1 and 4, got {given}")
        self.sampled, self.pooling = sampled, pooling
        self.trunk = ResNet(0, depths, bottleneck, width, stem, in_channels, image_size)
        self.head = BoxHead(self.trunk.channels[-1], hidden, num_classes)
        self.search = SelectiveSearch(proposals)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The trunk's maps, finest first."""
        return self.trunk.features(self.normalize(image))

    def judge(
        self, maps: list[Tensor], boxes: Float[Tensor, "b p 4"]
    ) -> tuple[Float[Tensor, "n classes_and_background"], Float[Tensor, "n classes 4"]]:
        """Scores and deltas of all regions, n = b * p, from the last map alone."""
        return self.head(pool_regions(maps[-1:], boxes, self.trunk.strides[-1:], how=self.pooling).flatten(0, 1))

    def forward(
        self, image: Float[Tensor, "b c h w"], regions: Float[Tensor, "b p 4"], real: Bool[Tensor, "b p"]
    ) -> tuple[Float[Tensor, "b d 4"], Float[Tensor, "b d"], Int[Tensor, "b d"]]:
        """Boxes, scores and labels of d detections among the real regions, best first; what follows the last is 0."""
        scores, deltas = (x.unflatten(0, regions.shape[:2]) for x in self.judge(self.features(image), regions))
        boxes = clip(decode(deltas, regions[..., None, :], WEIGHTS), *image.shape[-2:])
        return best_detections(boxes, scores.softmax(-1)[..., :-1] * real[..., None])

    def loss(self, batch: Batch) -> Losses:
        truth = objects_of(batch)
        regions = sample_regions(*self.search(batch.pictures), truth, self.sampled)
        return region_losses(*self.judge(self.features(batch.pictures), regions.boxes), regions, truth)

    def predict(self, batch: Batch) -> list[Detections]:
        return answers(self(batch.pictures, *self.search(batch.pictures)), self.class_names)
