r"""Prototypical Networks: a class is the mean of its examples.

    c_k = mean of f(x) over the support of class k
    p(y = k | x) = softmax_k(-||f(x) - c_k||²)

which is a linear classifier on f(x), since -||f||² is the same for all classes:  w_k = 2 c_k,  b_k = -||c_k||².

    image         batch x C x H x W
    f(x)          batch x embedding         a ResNet's pooled features and one linear layer
    prototypes    classes x embedding       made by `fit` from labelled batches, saved with the weights
    logits        batch x classes

The loss is cross-entropy on the queries of an episode. A batch that brings its `support` is one; any other batch is
split: the first `shots` pictures of each class are the support and the others the queries, so an ordinary shuffled
batch makes an episode of all its classes (many ways train better than few, as the paper found). After training `fit`
may see new classes: only the means change.

Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning, 2017, arXiv:1703.05175.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.backbones.resnet import ResNet
from oculi.input_contract import InputContract
from oculi.nn.classification import classification_predictions
from oculi.predictions import Classes
from oculi.system import System, evaluating
from oculi.types import Batch, Losses


def class_means(
    embedding: Float[Tensor, "n d"], label: Int[Tensor, " n"], classes: int
) -> tuple[Float[Tensor, "classes d"], Bool[Tensor, " classes"]]:
    """The prototypes, and which classes have one; samples with a label below 0 are left out."""
    member = F.one_hot(label[label >= 0], classes).to(embedding)
    count = member.sum(0)
    return member.T @ embedding[label >= 0] / count.clamp_min(1)[:, None], count > 0


def prototype_logits(
    embedding: Float[Tensor, "n d"], prototypes: Float[Tensor, "classes d"]
) -> Float[Tensor, "n classes"]:
    """-||f - c||² for every query and prototype."""
    return -(embedding[:, None] - prototypes[None]).square().sum(-1)


class PrototypicalNetworks(System):
    """Nearest-mean classification in an embedding that is trained by episodes.

    num_classes: how many prototypes can be kept; embedding: d; shots: support of each class in a training batch.
    """

    answer = Classes
    prototypes: Tensor
    known: Tensor

    def __init__(
        self,
        num_classes: int = 10,
        depths: list[int] = [1, 1, 1],  # noqa: B006 - read only; a list so that JSON gives it back
        width: int = 32,
        embedding: int = 64,
        shots: int = 1,
        in_channels: int = 3,
        image_size: int = 32,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if shots < 1:
            raise ValueError(f"shots: expected at least 1, got {shots}")
        self.num_classes, self.shots = num_classes, shots
        self.backbone = ResNet(0, depths, width=width, stem="small", in_channels=in_channels, image_size=image_size)
        self.project = nn.Linear(self.backbone.channels[-1], embedding)
        self.register_buffer("prototypes", torch.zeros(num_classes, embedding))
        self.register_buffer("known", torch.zeros(num_classes, dtype=torch.bool))

    def embed(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """f(x)."""
        return self.project(self.backbone(self.normalize(image)))

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits; -inf for classes without a prototype, unless no class has one."""
        logits = prototype_logits(self.embed(image), self.prototypes)
        return logits.masked_fill(~self.known & self.known.any(), -math.inf)

    def loss(self, batch: Batch) -> Losses:
        if batch.image is None or batch.label is None:
            raise ValueError("batch: expected images and labels to make an episode of")
        if batch.support is not None:
            shown = batch.support
            if shown.label is None:
                raise ValueError("batch.support.label: expected the labels of the examples, got None")
            image, label = torch.cat([shown.pictures, batch.image]), torch.cat([shown.label, batch.label])
            is_support = torch.arange(len(label), device=label.device) < len(batch.support)
        else:
            image, label = batch.image, batch.label
            is_support = first_of_each(label, self.shots)
        embedding = self.embed(image)
        prototypes, known = class_means(embedding[is_support], label[is_support], self.num_classes)
        asked = ~is_support & (label >= 0)
        asked &= known[label.clamp_min(0)]
        if not bool(asked.any()):
            raise ValueError(f"batch.label: no class has more than {self.shots} samples, so there is nothing to ask")
        logits = prototype_logits(embedding[asked], prototypes).masked_fill(~known, -math.inf)
        return {"cross_entropy": F.cross_entropy(logits, label[asked])}

    def fit(self, batches: Iterable[Batch]) -> None:
        """Store the mean embedding of each class in `batches`, in place of all earlier prototypes."""
        vectors, labels = [], []
        with evaluating(self):
            for batch in batches:
                if batch.label is None:
                    raise ValueError("batch.label: prototypes are means of labelled pictures, got None")
                vectors.append(self.embed(batch.pictures.to(self.device)))
                labels.append(batch.label.to(self.device))
            if not labels:
                raise ValueError("batches: expected at least one")
            prototypes, known = class_means(torch.cat(vectors), torch.cat(labels), self.num_classes)
            self.prototypes.copy_(prototypes)
            self.known.copy_(known)

    def linear(self) -> tuple[Float[Tensor, "classes d"], Float[Tensor, " classes"]]:
        """Weight and bias of the equivalent linear classifier on f(x)."""
        return 2 * self.prototypes, -self.prototypes.square().sum(1)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)


def first_of_each(label: Int[Tensor, " n"], count: int) -> Bool[Tensor, " n"]:
    """Which samples are among the first `count` of their class (labels below 0 never are)."""
    same_before = (label[:, None] == label[None]).tril(-1).sum(1)
    return (same_before < count) & (label >= 0)
