r"""Mixing: new pictures out of two, with labels as mixed as the pictures.

    mixup     x = l x_i + (1 - l) x_j,   q = l q_i + (1 - l) q_j,   l ~ Beta(alpha, alpha)
    cutmix    a rectangle of x_j in x_i, its sides sqrt(1 - l) of the picture's before it is clipped at the border;
              q = w q_i + (1 - w) q_j with w the share of x_i's area that is still seen
    smoothing q = (1 - eps) q + eps / K

Labels become soft, `batch x classes`, which `oculi.nn.classification.classification_loss` learns from.

Zhang, Cisse, Dauphin, Lopez-Paz: mixup: Beyond Empirical Risk Minimization, 2017, arXiv:1710.09412.
Yun, Han, Oh, Chun, Choe, Yoo: CutMix, 2019, arXiv:1905.04899.
Szegedy, Vanhoucke, Ioffe, Shlens, Wojna: Rethinking the Inception Architecture, 2015, arXiv:1512.00567.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from oculi.types import Batch

Pictures = Float[Tensor, "b c h w"]
Soft = Float[Tensor, "b classes"]


@dataclass(frozen=True)
class Mixing:
    """mixup, cutmix: alpha of the Beta distribution (0 = none; with both, each batch is mixed by one of them, drawn at
    random); smoothing: share of every label that is spread over all classes.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected alpha of 0 or more, got {getattr(self, name)}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing: expected a share from 0 to less than 1, got {self.smoothing}")

    def __call__(self, batch: Batch, classes: int) -> Batch:
        """A mixed copy with soft labels of so many classes; what else the batch holds is left as it was."""
        if batch.label is None:
            raise ValueError("batch.label: there is nothing to mix, got None")
        image, target = batch.pictures, soft_labels(batch.label, classes, self.smoothing)
        cuts = self.cutmix > 0 and (self.mixup == 0 or float(torch.rand(())) < 0.5)
        alpha = self.cutmix if cuts else self.mixup
        if alpha:
            n, (height, width) = len(image), image.shape[-2:]
            partner = torch.randperm(n).to(image.device)
            weight = torch.distributions.Beta(alpha, alpha).sample((n,))
            if cuts:
                boxes = windows(weight, torch.rand(n, 2), height, width).to(image.device)
                image, target = cutmix(image, target, partner, boxes)
            else:
                image, target = mixup(image, target, partner, weight.to(image))
        return replace(batch, image=image, label=target)


def soft_labels(label: Int[Tensor, " b"] | Float[Tensor, "b k"], classes: int, smoothing: float = 0.0) -> Soft:
    """One distribution per picture.

    >>> soft_labels(torch.tensor([1]), 4, 0.2)
    tensor([[0.0500, 0.8500, 0.0500, 0.0500]])
    """
    if not label.is_floating_point():
        if bool((label < 0).any()) or bool((label >= classes).any()):
            raise ValueError(f"batch.label: expected classes from 0 to {classes - 1}, got {label.unique().tolist()}")
        label = F.one_hot(label, classes).float()
    return (1 - smoothing) * label + smoothing / classes


def mixup(
    image: Pictures, target: Soft, partner: Int[Tensor, " b"], weight: Float[Tensor, " b"]
) -> tuple[Pictures, Soft]:
    """Each picture with weight `weight`, and its partner with the rest."""
    share = weight[:, None, None, None]
    mixed = share * image + (1 - share) * image[partner]
    return mixed, weight[:, None] * target + (1 - weight[:, None]) * target[partner]


def windows(weight: Float[Tensor, " b"], center: Float[Tensor, "b 2"], height: int, width: int) -> Int[Tensor, "b 4"]:
    """Whole-pixel rectangles x1 y1 x2 y2 about `center` (in [0, 1)), clipped, of the area (1 - weight) before that."""
    size = torch.tensor([width, height])
    middle = (center * size).long()
    half = (0.5 * (1 - weight).sqrt()[:, None] * size).long()
    low, high = (middle - half).clamp_min(0), torch.minimum(middle + half, size)
    return torch.cat([low, high], 1)


def cutmix(
    image: Pictures, target: Soft, partner: Int[Tensor, " b"], boxes: Int[Tensor, "b 4"]
) -> tuple[Pictures, Soft]:
    """The partner's pixels inside the rectangle, and of its label as much as the rectangle covers."""
    height, width = image.shape[-2:]
    y, x = torch.arange(height, device=image.device), torch.arange(width, device=image.device)
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    inside = ((y >= y1) & (y < y2))[:, :, None] & ((x >= x1) & (x < x2))[:, None, :]
    weight = 1 - inside.flatten(1).to(target).mean(1, keepdim=True)
    mixed = torch.where(inside[:, None], image[partner], image)
    return mixed, weight * target + (1 - weight) * target[partner]
