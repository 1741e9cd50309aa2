r"""Sliding-window detector: a classifier looks through a window at every place and of every size.

How many objects a picture holds is not known in advance, so a network with one answer is asked at many places.

    windows    squares of the given sizes, each moved by a share of its side over the picture
    views      every window resampled to the classifier's size, by RoIAlign
    classifier a small residual network, its last map flat, and a localisation head: C + 1 scores (the last is
               background) and the object's box within the view
    NMS        of the boxes, at 0.5 by class

In training a window shows an object from IoU 0.5 on, background below 0.3; a third of those sampled are foreground,
squares put near the objects at random being among them. The cost is that of as many classifications as there are
windows, which is why what followed (R-CNN, Faster R-CNN, YOLO) looks at fewer places or at all places at once.

Sermanet et al.: OverFeat, 2013, arXiv:1312.6229, for windows and boxes by one network; it shares the convolutions
among windows, which is left out here.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from oculi.backbones.resnet import ResNet
from oculi.detect.faster_rcnn import sample_balanced
from oculi.input_contract import InputContract
from oculi.nn.detection import Found, Truth, answers, best_of, objects_of, separate
from oculi.nn.localization import LocalizationHead, in_view, localization_loss, out_of_view
from oculi.ops.anchors import match
from oculi.ops.boxes import box_iou, clip
from oculi.ops.roi_align import roi_align
from oculi.predictions import Detections
from oculi.system import System
from oculi.types import Batch, Losses

FOREGROUND, BACKGROUND, SHARE, NEAR = 0.5, 0.3, 1 / 3, 6
LEAST_SCORE, OVERLAP, MOST_CANDIDATES, MOST_DETECTIONS = 0.05, 0.5, 200, 100
WINDOWS_AT_ONCE = 64  # of each picture


def slide(sizes: list[int], step: float, height: int, width: int) -> Float[Tensor, "n 4"]:
    """Squares of each size (in pixels) at every `step` of their side, row by row, none beyond the picture.

    >>> slide([4], 0.5, 4, 8)
    tensor([[0., 0., 4., 4.],
            [2., 0., 6., 4.],
            [4., 0., 8., 4.]])
    """
    found = []
    for size in sizes:
        y, x = (torch.arange(int((side - size) / (step * size) + 1e-6) + 1) * step * size for side in (height, width))
        corner = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).reshape(-1, 2)
        found.append(torch.cat([corner, corner + size], 1))
    return torch.cat(found)


class SlidingWindowDetector(System):
    """A window classifier with a localisation head, at every place.

    sizes: sides of the windows in pixels; step: how far they move, in sides; view: pixels that the classifier sees;
    depths, width: of its residual network; hidden: of its head; samples: windows of each picture to learn from.
    """

    answer = Detections

    def __init__(
        self,
        num_classes: int = 20,
        sizes: list[int] = [10, 14, 20, 28],  # noqa: B006 - read only; a list so that JSON gives it back
        step: float = 0.25,
        view: int = 16,
        depths: list[int] = [1, 1, 1],  # noqa: B006
        width: int = 16,
        hidden: int = 128,
        samples: int = 64,
        in_channels: int = 3,
        image_size: int = 64,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if not sizes or not 1 <= min(sizes) <= max(sizes) <= image_size:
            raise ValueError(f"sizes: expected windows of 1 to {image_size} pixels, got {sizes}")
        if not 0 < step <= 1:
            raise ValueError(f"step: expected a share of the side above 0, at most 1, got {step}")
        self.num_classes, self.view, self.samples = num_classes, view, samples
        self.trunk = ResNet(0, depths, width=width, stem="small", in_channels=in_channels, image_size=view)
        side = -(-view // self.trunk.strides[-1])
        self.head = LocalizationHead(self.trunk.channels[-1] * side**2, hidden, num_classes + 1)
        self.windows: Tensor
        self.register_buffer("windows", slide(sizes, step, image_size, image_size), persistent=False)

    def look(
        self, image: Float[Tensor, "b c h w"], windows: Float[Tensor, "b p 4"]
    ) -> tuple[Float[Tensor, "b p classes"], Float[Tensor, "b p 4"]]:
        """Scores (background last) and boxes, as shares of the window, of what each window shows."""
        views = roi_align(self.normalize(image), windows, self.view).flatten(0, 1)
        scores, boxes = self.head(self.trunk.features(views)[-1].flatten(1))
        return scores.unflatten(0, windows.shape[:2]), boxes.unflatten(0, windows.shape[:2])

    def forward(self, image: Float[Tensor, "b c h w"]) -> Found:
        """Boxes, scores and labels of d detections, best first; what follows the last is 0."""
        seen = [self.look(image, part.expand(image.shape[0], -1, -1)) for part in self.windows.split(WINDOWS_AT_ONCE)]
        logits, shares = (torch.cat(part, 1) for part in zip(*seen, strict=True))
        boxes = clip(out_of_view(shares, self.windows), *image.shape[-2:])
        score, place, label = best_of(logits.softmax(-1)[..., :-1], LEAST_SCORE, MOST_CANDIDATES)
        rows = torch.arange(image.shape[0], device=image.device)[:, None]
        return separate(boxes[rows, place], score, label, OVERLAP, MOST_DETECTIONS)

    def near_objects(self, truth: Truth) -> Float[Tensor, "b p 4"]:
        """Squares of about the objects' sizes about their centres, at random."""
        centre, size = (truth.boxes[..., :2] + truth.boxes[..., 2:]) / 2, truth.boxes[..., 2:] - truth.boxes[..., :2]
        centre, size = centre.repeat(1, NEAR, 1), size.amax(-1, keepdim=True).repeat(1, NEAR, 1).clamp_min(4)
        size = size * (0.8 + 0.5 * torch.rand(size.shape, device=size.device))
        centre = centre + (torch.rand(centre.shape, device=size.device) - 0.5) * 0.4 * size
        return torch.cat([centre - size / 2, centre + size / 2], -1)

    def loss(self, batch: Batch) -> Losses:
        truth, image = objects_of(batch), batch.pictures
        windows = torch.cat([self.windows.expand(len(image), -1, -1), self.near_objects(truth)], 1)
        overlaps = box_iou(truth.boxes, windows).masked_fill(~truth.real[..., None], -1)
        matched = match(overlaps, FOREGROUND, BACKGROUND)
        positive, negative = sample_balanced(matched >= 0, matched == -1, self.samples, SHARE)
        sampled = positive | negative
        chosen = sampled.int().topk(min(self.samples, sampled.shape[1]), 1).indices
        rows = torch.arange(len(image), device=image.device)[:, None]
        windows, matched, sampled = windows[rows, chosen], matched[rows, chosen], sampled[rows, chosen].flatten()
        scores, shares = (x.flatten(0, 1)[sampled] for x in self.look(image, windows))
        own, present = matched.clamp_min(0), (matched >= 0).flatten()[sampled]
        label = torch.where(present, truth.kinds[rows, own].flatten()[sampled], self.num_classes)
        wanted = in_view(truth.boxes[rows, own], windows).flatten(0, 1)[sampled]
        return localization_loss(scores, shares, label, wanted, present)

    def predict(self, batch: Batch) -> list[Detections]:
        return answers(self(batch.pictures), self.class_names)
