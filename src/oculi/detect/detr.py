r"""DETR: a fixed set of learned queries asks the picture, each answering with one box and its class or "no object".

    image        batch x C x H x W
    trunk        residual network, the last stage's map, 1x1 convolution to d channels
    encoder      every place of the map looks at every other, sines of the place added to what is compared
    decoder      N queries, which begin as zeros with learned places P, look at one another and at the encoder's map, and
                 answer all at once
    heads        linear to C + 1 classes, the last being "no object"; three layers to (x, y, w, h) in [0, 1] of the picture

No proposals, no anchors, no suppression: the loss makes each object the business of one query. The objects are matched
to the queries at the least total cost

    C[i, j] = - p_i(class_j) + 5 |b_i - b_j|_1 - 2 GIoU(b_i, b_j)

and then, M being the number of objects in the batch,

    classes   cross-entropy of all N queries, "no object" weighing 0.1
    boxes     5 / M sum |b_i - b_j|_1 of the matched,   giou   2 / M sum (1 - GIoU)

Every decoder layer is judged in the same way (auxiliary losses, added up) through the same final norm and heads. The
answer does not depend on the order of the queries, the loss neither on that of the objects. Differs from the paper:
pictures of a batch have one size, so that there is no padding to mask; batch norm learns; no dropout of attention.

Carion, Massa, Synnaeve, Usunier, Kirillov, Zagoruyko: End-to-End Object Detection with Transformers, 2020,
arXiv:2005.12872.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from oculi.backbones.resnet import ResNet
from oculi.input_contract import InputContract
from oculi.nn.detection import objects_of
from oculi.nn.query_decoder import EncoderLayer, QueryDecoder, perceptron, sine_positions
from oculi.nn.set_prediction import set_class_loss
from oculi.ops.assignment import Matching, assign
from oculi.ops.boxes import clip, from_centres, generalized_box_iou, to_centres
from oculi.predictions import Detections
from oculi.system import System
from oculi.types import Batch, Losses

CLASS_COST, BOX_WEIGHT, GIOU_WEIGHT, NO_OBJECT = 1.0, 5.0, 2.0, 0.1


@torch.no_grad()
def match(
    logits: Float[Tensor, "b queries scores"],
    boxes: Float[Tensor, "b queries 4"],
    truth: Float[Tensor, "b truths 4"],
    labels: Int[Tensor, "b truths"],
    real: Bool[Tensor, "b truths"],
) -> Matching:
    """Which query stands for which object; boxes as centre and size in [0, 1]."""
    said = logits.softmax(-1).gather(2, labels[:, None].expand(-1, logits.shape[1], -1))
    far = torch.cdist(boxes, truth, p=1)
    overlap = generalized_box_iou(from_centres(boxes), from_centres(truth))
    return assign(BOX_WEIGHT * far - CLASS_COST * said - GIOU_WEIGHT * overlap, real)


def set_loss(
    logits: Float[Tensor, "b queries scores"],
    boxes: Float[Tensor, "b queries 4"],
    truth: Float[Tensor, "b truths 4"],
    labels: Int[Tensor, "b truths"],
    real: Bool[Tensor, "b truths"],
) -> Losses:
    """Matching and the three losses of one decoder layer's answers, or of several layers' side by side."""
    found = match(logits, boxes, truth, labels, real)
    given, wanted = boxes[found.picture, found.query], truth[found.picture, found.truth]
    count = real.sum().clamp_min(1)
    overlap = generalized_box_iou(from_centres(given)[:, None], from_centres(wanted)[:, None])
    return {
        "classes": set_class_loss(logits, labels, found, NO_OBJECT),
        "boxes": BOX_WEIGHT * (given - wanted).abs().sum() / count,
        "giou": GIOU_WEIGHT * (1 - overlap).sum() / count,
    }


class DETR(System):
    """DETR. The defaults are the paper's with ResNet-50.

    depths, bottleneck, width: the trunk, see ResNet; one stage fewer halves the stride. channels: d, of the transformer;
    heads: of its attention; hidden: of its feed-forward nets; layers: of encoder and decoder; queries: the most objects
    that a picture can have.
    """

    answer = Detections

    def __init__(
        self,
        num_classes: int = 91,
        depths: list[int] = [3, 4, 6, 3],  # noqa: B006 - read only; a list so that JSON gives it back
        bottleneck: bool = True,
        width: int = 64,
        channels: int = 256,
        heads: int = 8,
        hidden: int = 2048,
        layers: list[int] = [6, 6],  # noqa: B006
        queries: int = 100,
        dropout: float = 0.1,
        in_channels: int = 3,
        image_size: int = 800,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if len(layers) != 2 or layers[0] < 0:
            raise ValueError(f"layers: expected those of the encoder and of the decoder, got {layers}")
        if num_classes < 1:
            raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
        self.trunk = ResNet(0, depths, bottleneck, width, "imagenet", in_channels, image_size)
        self.project = nn.Conv2d(self.trunk.channels[-1], channels, 1)
        self.encoder = nn.ModuleList(EncoderLayer(channels, heads, hidden, dropout) for _ in range(layers[0]))
        self.decoder = QueryDecoder(channels, heads, hidden, layers[1], queries, dropout)
        self.classes = nn.Linear(channels, num_classes + 1)
        self.boxes = perceptron(channels, channels, 4)

    def decoded(self, image: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b queries d"]]:
        """The queries after each decoder layer, normed."""
        picture = self.project(self.trunk.features(self.normalize(image))[-1])
        places = sine_positions(picture.shape[-2], picture.shape[-1], picture.shape[1], image.device)[None]
        picture = picture.flatten(2).transpose(1, 2)
        for layer in self.encoder:
            picture = layer(picture, places)
        return self.decoder(picture, places)

    def answers(
        self, decoded: Float[Tensor, "*b queries d"]
    ) -> tuple[Float[Tensor, "*b queries scores"], Float[Tensor, "*b queries 4"]]:
        """Class scores, the last for no object, and centre and size of the box in [0, 1]."""
        return self.classes(decoded), self.boxes(decoded).sigmoid()

    def forward(
        self, image: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b queries 4"], Float[Tensor, "b queries"], Int[Tensor, "b queries"]]:
        """Box in pixels, score and label of every query, in the order of the queries."""
        logits, boxes = self.answers(self.decoded(image)[-1])
        height, width = image.shape[-2:]
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        boxes = from_centres(boxes) * boxes.new_tensor([width, height, width, height])
        return clip(boxes, height, width), scores, labels

    def loss(self, batch: Batch) -> Losses:
        objects = objects_of(batch)
        decoded = self.decoded(batch.pictures)
        logits, boxes = self.answers(torch.cat(decoded))
        height, width = batch.pictures.shape[-2:]
        truth = to_centres(objects.boxes) / boxes.new_tensor([width, height, width, height])
        layers = len(decoded)
        labels, real = objects.kinds.repeat(layers, 1), objects.real.repeat(layers, 1)
        losses = set_loss(logits, boxes, truth.repeat(layers, 1, 1), labels, real)
        return {name: layers * value for name, value in losses.items()}  # the sum over layers of their means

    def predict(self, batch: Batch) -> list[Detections]:
        found = []
        for boxes, scores, labels in zip(*self(batch.image), strict=True):
            best = scores.argsort(descending=True, stable=True)
            found.append(Detections(boxes[best], scores[best], labels[best], names=self.class_names))
        return found
