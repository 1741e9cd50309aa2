r"""Mask R-CNN: Faster R-CNN whose regions also get a mask, one for every class, so that masks do not compete.

    detector     Faster R-CNN: its pyramid, its proposals, its boxes and classes
    RoIAlign     14 x 14 bins of each foreground region in training, of each detection when answering
    mask head    four 3x3 convolutions with ReLU, a 2x2 transposed convolution of stride 2 with ReLU, 1x1: C maps of 28 x 28
    masks        loss: binary cross-entropy of the true class's map alone, sigmoid per pixel, no softmax over classes

The target is the object's exact mask, averaged over the bins of the region (RoI Align of the mask, 2 x 2 samples a bin).
An answer's mask is the map of its class, pasted over its box, true from 0.5. `pooling` says how regions are read:
`align` with exact pixel centres, `align_shifted` as torchvision's weights want it (its targets and pasting too),
`pool` by RoI pooling, whose rounding costs masks more than boxes.

Differs from torchvision in the samples of the target, which there are as many a bin as the region has pixels.

He, Gkioxari, Dollar, Girshick: Mask R-CNN, 2017, arXiv:1703.06870.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.detect.faster_rcnn import FasterRCNN
from oculi.input_contract import InputContract
from oculi.nn.detection import Truth, answers, objects_of, padded
from oculi.nn.regions import Regions, fan_out_init
from oculi.ops.mask_paste import paste
from oculi.ops.roi_align import roi_align
from oculi.predictions import Detections
from oculi.system import System
from oculi.types import Batch, Losses

MASK_BINS, LAYERS, THRESHOLD = 14, 4, 0.5


class MaskHead(nn.Module):
    """A small fully convolutional network: a map of logits per class, twice as fine as the pooled region."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(LAYERS))
        self.up = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.logits = nn.Conv2d(channels, num_classes, 1)
        fan_out_init(self)

    def forward(self, regions: Float[Tensor, "n c bins bins"]) -> Float[Tensor, "n classes fine fine"]:
        x = regions
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.logits(F.relu(self.up(x)))


class MaskRCNN(System):
    """Mask R-CNN with a feature pyramid. The defaults are those of torchvision's with ResNet-18.

    depths, bottleneck, width, stem: the trunk, see ResNet. channels: of the pyramid and the mask head; hidden: of the
    box head; anchors, proposals: see FasterRCNN. pooling: see above.
    """

    answer = Detections

    def __init__(
        self,
        num_classes: int = 80,
        depths: list[int] = [2, 2, 2, 2],  # noqa: B006 - read only; a list so that JSON gives it back
        bottleneck: bool = False,
        width: int = 64,
        stem: Literal["imagenet", "small"] = "imagenet",
        channels: int = 256,
        hidden: int = 1024,
        anchors: list[int] = [32, 64, 128, 256, 512],  # noqa: B006
        proposals: int = 1000,
        pooling: Literal["align", "align_shifted", "pool"] = "align",
        in_channels: int = 3,
        image_size: int = 512,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if pooling not in ("align", "align_shifted", "pool"):
            raise ValueError(f"pooling: expected align, align_shifted or pool, got {pooling!r}")
        self.detector = FasterRCNN(
            num_classes, depths, bottleneck, width, stem, channels, hidden, anchors, proposals, True, in_channels, image_size
        )  # fmt: skip
        self.detector.pooling = pooling
        self.exact = pooling != "align_shifted"
        self.masks = MaskHead(channels, num_classes)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The pyramid's maps, finest first."""
        return self.detector.features(self.normalize(image))

    def forward(
        self, image: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b d 4"], Float[Tensor, "b d"], Int[Tensor, "b d"], Float[Tensor, "b d h w"]]:
        """Boxes, scores, labels and masks (how probable each pixel is) of d detections; what follows the last is 0."""
        return self.detect(self.features(image), list(image.shape[-2:]))

    def detect(
        self, maps: list[Tensor], size: list[int]
    ) -> tuple[Float[Tensor, "b d 4"], Float[Tensor, "b d"], Int[Tensor, "b d"], Float[Tensor, "b d h w"]]:
        """The same from the pyramid of a picture of `size`."""
        boxes, scores, labels = self.detector.detect(maps, size)
        own = labels.flatten()[:, None, None, None].expand(-1, 1, 2 * MASK_BINS, 2 * MASK_BINS)
        small = self.masks(self.detector.pool(maps, boxes, MASK_BINS)).gather(1, own)[:, 0].sigmoid()
        masks = paste(small, boxes.flatten(0, 1), size[0], size[1], whole=not self.exact).unflatten(0, scores.shape)
        return boxes, scores, labels, masks * (scores > 0)[..., None, None]

    def loss(self, batch: Batch) -> Losses:
        return self.learn(self.features(batch.pictures), batch)

    def learn(self, maps: list[Tensor], batch: Batch) -> Losses:
        """The detector's losses and that of the masks, from the pyramid of the batch's pictures."""
        if batch.masks is None:
            raise ValueError("batch.masks: expected a mask of each object, got None")
        truth = objects_of(batch)
        losses, regions = self.detector.learn(maps, truth, list(batch.pictures.shape[-2:]))
        return losses | {"masks": self.mask_loss(maps, regions.foreground(), truth, padded(batch.masks))}

    def mask_loss(
        self, maps: list[Tensor], regions: Regions, truth: Truth, masks: Bool[Tensor, "b g h w"]
    ) -> Float[Tensor, ""]:
        """Mean over the pixels of foreground regions; 0 where there is none."""
        positive = regions.positive.flatten()
        rows = torch.arange(len(masks), device=masks.device)[:, None].expand_as(regions.object)[regions.positive]
        own, boxes = regions.object[regions.positive], regions.boxes[regions.positive]
        said = self.masks(self.detector.pool(maps, regions.boxes, MASK_BINS)[positive])
        logits = said[torch.arange(len(own), device=own.device), truth.kinds[rows, own]]
        whole = masks[rows, own][:, None].to(logits)
        wanted = roi_align(whole, boxes[:, None], 2 * MASK_BINS, aligned=self.exact)[:, 0, 0]
        total = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        return total / max(1, logits.numel())

    def predict(self, batch: Batch) -> list[Detections]:
        boxes, scores, labels, masks = self(batch.image)
        return answers((boxes, scores, labels, masks > THRESHOLD), self.class_names, "masks")
