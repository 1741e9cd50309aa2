r"""R-CNN: selective search, a convolutional network on every region by itself, a linear SVM per class, a box regressor.

    proposals   selective search, remembered by picture
    warping     each region with `context` pixels around it becomes `side` x `side` pixels, whatever its shape
    network     residual network on each warped region; its last map, averaged to 3 x 3, is the region's feature vector
    fine-tuning `loss`: cross-entropy over C + 1 classes of sampled regions, foreground from an overlap of 0.5
    SVMs        `fit`: positive are the true boxes, negative what overlaps a class's objects by less than 0.3; the
                negatives that come too near (above -1) join, and it is solved again
    regressors  `fit`: ridge regression per class from the features to the deltas of proposals that overlap by 0.6:
                dx / wa, dy / ha, log w / wa, log h / ha
    answers     the SVM's decisions through a sigmoid, moved boxes, NMS by class

No feature is shared between regions: of the three R-CNNs this is by far the slowest. Features are scaled to a mean length
of 20, as the authors' code does. Differs from the paper in the network (residual, learning from scratch, averaged to
3 x 3) and in fitting both SVMs and regressors from the same features.

Girshick, Donahue, Darrell, Malik: Rich Feature Hierarchies, 2013, arXiv:1311.2524.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.backbones.resnet import ResNet
from oculi.classify.linear_svm import LinearSVM
from oculi.detect.selective_search import SelectiveSearch
from oculi.input_contract import InputContract
from oculi.nn.detection import answers, objects_of
from oculi.nn.regions import best_detections, sample_regions
from oculi.ops.boxes import box_iou, clip, decode, encode
from oculi.ops.roi_align import roi_align
from oculi.predictions import Detections
from oculi.system import System, evaluating
from oculi.types import Batch, Losses

CELLS, LENGTH = 3, 20.0
NEGATIVE, REGRESSED, RIDGE = 0.3, 0.6, 1000.0
FIRST_NEGATIVES, POOL, ROUNDS = 4, 24, 2  # of a picture, of a picture, of mining
REGIONS_AT_ONCE, MOST_STEPS = 512, 1000


class RCNN(System):
    """R-CNN with a small residual network per region.

    depths, width: of the network, see ResNet. side: of a warped region; context: pixels of it that lie around the box.
    proposals: at most so many of selective search's; sampled: regions of a picture to learn from at a time. cost: of a
    unit of hinge loss.
    """

    answer = Detections

    def __init__(
        self,
        num_classes: int = 20,
        depths: list[int] = [2, 2, 2],  # noqa: B006 - read only; a list so that JSON gives it back
        width: int = 32,
        side: int = 64,
        context: int = 4,
        proposals: int = 2000,
        sampled: int = 16,
        cost: float = 0.001,
        in_channels: int = 3,
        image_size: int = 256,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if not 0 <= 2 * context < side:
            raise ValueError(f"context: expected 0 to less than half of side, {side}, got {context}")
        if num_classes < 1 or proposals < 1 or sampled < 4:
            given = f"{num_classes}, {proposals} and {sampled}"
            raise ValueError(f"num_classes, proposals, sampled: expected at least 1, 1 and 4, got {given}")
        self.num_classes, self.side, self.context, self.sampled, self.cost = num_classes, side, context, sampled, cost
        self.network = ResNet(0, depths, False, width, "small", in_channels, side)
        length = self.network.channels[-1] * CELLS**2
        self.head = nn.Linear(length, num_classes + 1)
        self.search = SelectiveSearch(proposals)
        self.normal: Tensor
        self.offset: Tensor
        self.movers: Tensor
        self.scale: Tensor
        self.register_buffer("normal", torch.zeros(length, num_classes))
        self.register_buffer("offset", torch.zeros(num_classes))
        self.register_buffer("movers", torch.zeros(length + 1, num_classes * 4))
        self.register_buffer("scale", torch.ones(()))

    def warp(self, image: Float[Tensor, "b c h w"], boxes: Float[Tensor, "b p 4"]) -> Float[Tensor, "n c side side"]:
        """Every box and what is around it, stretched to a square, n = b * p; what is outside the picture is grey."""
        inner = self.side - 2 * self.context
        border = (boxes[..., 2:] - boxes[..., :2]) * (self.context / inner)
        wider = torch.cat([boxes[..., :2] - border, boxes[..., 2:] + border], -1)
        return roi_align(self.normalize(image), wider, self.side, samples=1).flatten(0, 1)

    def embed_regions(
        self, image: Float[Tensor, "b c h w"], boxes: Float[Tensor, "b p 4"]
    ) -> Float[Tensor, "n features"]:
        """The features of every box, each region seen alone."""
        warped = self.warp(image, boxes).split(REGIONS_AT_ONCE)
        maps = [F.adaptive_avg_pool2d(self.network.features(some)[-1], CELLS) for some in warped]
        return torch.cat(maps).flatten(1)

    def forward(
        self, image: Float[Tensor, "b c h w"], regions: Float[Tensor, "b p 4"], real: Bool[Tensor, "b p"]
    ) -> tuple[Float[Tensor, "b d 4"], Float[Tensor, "b d"], Int[Tensor, "b d"]]:
        """Boxes, scores and labels of d detections among the real regions, best first; what follows the last is 0."""
        features = self.embed_regions(image, regions) * self.scale
        scores = (features @ self.normal + self.offset).sigmoid().unflatten(0, regions.shape[:2])
        deltas = (features @ self.movers[:-1] + self.movers[-1]).reshape(*scores.shape, 4)
        boxes = clip(decode(deltas, regions[..., None, :]), *image.shape[-2:])
        return best_detections(boxes, scores * real[..., None])

    def loss(self, batch: Batch) -> Losses:
        truth = objects_of(batch)
        regions = sample_regions(*self.search(batch.pictures), truth, self.sampled)
        rows = torch.arange(len(regions.boxes), device=regions.boxes.device)[:, None]
        labels = torch.where(regions.positive, truth.kinds[rows, regions.object], self.num_classes)
        logits = self.head(self.embed_regions(batch.pictures, regions.boxes))
        sampled = regions.sampled.flatten()
        return {"classes": F.cross_entropy(logits[sampled], labels.flatten()[sampled])}

    def fit(self, batches: Iterable[Batch]) -> None:
        """Solve the SVMs and the regressors on what the network now sees."""
        with evaluating(self):
            parts = [self._examples(batch.to(self.device)) for batch in batches]
            features, overlaps, deltas, kinds, real = (torch.cat(list(column)) for column in zip(*parts, strict=True))
        self.scale.copy_(LENGTH / features.norm(dim=1).mean().clamp_min(1e-9))
        features = features * self.scale
        positive = F.one_hot(kinds.clamp_min(0), self.num_classes).bool() & (kinds >= 0)[:, None] & real[:, None]
        self._fit_machines(features, positive, (overlaps < NEGATIVE) & ~real[:, None])
        self._fit_movers(features, overlaps, deltas, kinds)

    def _examples(self, batch: Batch) -> tuple[Tensor, ...]:
        """Of true boxes and some proposals: features, overlap with each class, deltas, class of the nearest, is it true."""
        truth, columns = objects_of(batch), []
        proposed, solid = self.search(batch.pictures)
        boxes, real = torch.cat([truth.boxes, proposed], 1), torch.cat([truth.real, solid], 1)
        overlaps = box_iou(boxes, truth.boxes).masked_fill(~truth.real[:, None], 0.0)
        best, nearest = overlaps.max(-1)
        own = F.one_hot(truth.kinds, self.num_classes).bool()
        by_class = torch.where(own[:, None], overlaps[..., None], 0.0).amax(2)
        true = torch.arange(boxes.shape[1], device=boxes.device) < truth.boxes.shape[1]
        chance = torch.rand(best.shape, device=boxes.device) + true + (best >= REGRESSED)
        kept = torch.where(real, chance, -1.0).topk(min(truth.boxes.shape[1] + 2 * POOL, best.shape[1]), 1).indices
        rows = torch.arange(len(boxes), device=boxes.device)[:, None]
        used = real[rows, kept].flatten()
        objects = truth.boxes[rows, nearest[rows, kept]]
        near = best[rows, kept] >= REGRESSED
        safe = torch.where(near[..., None], objects, boxes[rows, kept])
        columns = [
            self.embed_regions(batch.pictures, boxes[rows, kept]),
            by_class[rows, kept].flatten(0, 1),
            encode(safe, boxes[rows, kept]).flatten(0, 1),
            torch.where(near, truth.kinds[rows, nearest[rows, kept]], -1).flatten(),
            true[kept].flatten(),
        ]
        return tuple(column[used] for column in columns)

    def _fit_machines(self, features: Tensor, positive: Tensor, negative: Tensor) -> None:
        """Machines whose class, or whose background, never occurs stay as they are."""
        known = positive.any(0) & negative.any(0)
        if not bool(known.any()):
            return
        positive, negative = positive[:, known], negative[:, known]
        share = FIRST_NEGATIVES / POOL
        hard = negative & (torch.rand(len(features), 1, device=features.device) < share)
        hard = torch.where(hard.any(0), hard, negative)
        machine = LinearSVM(self.cost, tolerance=1e-3, most_steps=MOST_STEPS)
        for _ in range(ROUNDS + 1):
            used = positive | hard
            some = used.any(1)
            machine.fit(features[some], positive[some], used[some])
            hard = hard | (negative & (machine.decide(features) > -1))
        self.normal[:, known], self.offset[known] = machine.normal, machine.offset

    def _fit_movers(self, features: Tensor, overlaps: Tensor, deltas: Tensor, kinds: Tensor) -> None:
        """Ridge regression of each class's deltas; the constant is not penalised."""
        movers = self.movers.unflatten(1, (self.num_classes, 4))
        for k in range(self.num_classes):
            mine = (kinds == k) & (overlaps[:, k] >= REGRESSED)
            if not bool(mine.any()):
                continue
            x, wanted = features[mine].double(), deltas[mine].double()
            middle, mean = x.mean(0), wanted.mean(0)
            gram = (x - middle).T @ (x - middle)
            gram.diagonal().add_(RIDGE)
            weight = torch.linalg.solve(gram, (x - middle).T @ (wanted - mean))
            movers[:-1, k], movers[-1, k] = weight.to(movers), (mean - middle @ weight).to(movers)

    def predict(self, batch: Batch) -> list[Detections]:
        return answers(self(batch.pictures, *self.search(batch.pictures)), self.class_names)
