r"""Mean Teacher: the student chases its own average.

Two networks of one architecture. The student learns by gradient, the teacher's weights are its moving average,

    theta'_t = a_t theta'_{t-1} + (1 - a_t) theta_t        a_t = min(1 - 1 / (t + 1), a),  t = 1, 2, ...
    loss = CE(f(x), y) over labelled images  +  w(t) mean (softmax f(u(x)) - softmax f'(u'(x)))²  over all images
    w(t) = w exp(-5 (1 - min(1, t / ramp))²)

with u, u' two random augmentations. The average is a better classifier than any of its members, so its answers on
unlabelled images are targets worth following; the ramp waits until there is something to follow.

    image    batch x C x H x W in [0, 1]
    label    batch, -1 = unlabelled
    logits   batch x classes; the teacher answers

The weights are averaged, not the predictions (Temporal Ensembling), and predictions are compared, not weights.
Differs from the paper: augmentations of `oculi.data.augment` in place of translations and flips, and no dropout.
The mean square runs over images and classes. Batch norm's running statistics are the teacher's own.

Tarvainen, Valpola: Mean teachers are better role models, 2017, arXiv:1703.01780.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from oculi.backbones.resnet import ResNet
from oculi.data.augment import Augment
from oculi.input_contract import InputContract
from oculi.nn.classification import classification_predictions
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import UNLABELLED, Batch, Losses, images_only

VIEWS = {"shift": 0.1, "rotate": 0.2, "scale": 0.1, "noise": 0.1}


class MeanTeacher(System):
    """A ResNet student (small stem) and its averaged teacher.

    decay: a; consistency_weight: w (0 is the supervised baseline); ramp: steps until the full weight;
    views: options of `Augment` ({} takes `VIEWS`).
    """

    answer = Classes
    steps: Tensor

    def __init__(
        self,
        num_classes: int = 10,
        depths: list[int] = [1, 1, 1],  # noqa: B006 - read only; a list so that JSON gives it back
        width: int = 24,
        decay: float = 0.99,
        consistency_weight: float = 10.0,
        ramp: int = 300,
        views: dict[str, float] = {},  # noqa: B006 - read only
        in_channels: int = 3,
        image_size: int = 32,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if not 0 <= decay <= 1:
            raise ValueError(f"decay: expected a number from 0 to 1, got {decay}")
        self.decay, self.consistency_weight, self.ramp = decay, consistency_weight, ramp
        self.augment = Augment(**(views or VIEWS))
        options: dict[str, Any] = {
            "width": width,
            "stem": "small",
            "in_channels": in_channels,
            "image_size": image_size,
        }
        self.student = ResNet(num_classes, depths, **options)
        self.teacher = ResNet(num_classes, depths, **options).requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """The teacher's logits."""
        return self.teacher(self.normalize(image))

    def consistency(self) -> float:
        """w(t), the weight of the consistency loss at this step."""
        missing = 1 - min(1.0, int(self.steps) / max(1, self.ramp))
        return self.consistency_weight * math.exp(-5 * missing**2)

    def loss(self, batch: Batch) -> Losses:
        if batch.image is None or batch.label is None:
            raise ValueError("batch: expected images and labels (-1 where unlabelled)")
        mine, target = (self.normalize(self.augment(images_only(batch.image)).pictures) for _ in range(2))
        logits = self.student(mine)
        with torch.no_grad():
            belief = self.teacher(target).softmax(-1)
        labelled = (batch.label != UNLABELLED).sum().clamp_min(1)
        supervised = F.cross_entropy(logits, batch.label, ignore_index=UNLABELLED, reduction="sum") / labelled
        distance = F.mse_loss(logits.softmax(-1), belief)
        return {"cross_entropy": supervised, "consistency": self.consistency() * distance}

    @torch.no_grad()
    def on_step_end(self, phase: str, step: int) -> None:
        self.steps += 1
        decay = min(1 - 1 / (int(self.steps) + 1), self.decay)
        for average, weight in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)
