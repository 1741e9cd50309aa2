r"""FGSM, the fast gradient sign method: one step that raises the loss of every picture as much as the budget allows.

    x' = clip(x + eps sign(grad_x J(x, y)), 0, 1)

To first order it is the best step within max |x' - x| <= eps: each pixel moves by eps in the direction in which the
loss rises. J is the sum of `system.loss(batch)`, so what learns by gradient can be attacked: classifiers, detectors,
segmenters. The system is in eval mode meanwhile; weights, their gradients and the mode are left as they were.

    image, result    batch x C x H x W, in [0, 1]
    eps              largest change of a pixel, in the picture's units (8/255 is customary for photographs)

Differs from the paper in that the result is clipped to valid pixels, and the budget holds exactly in floating point:
x + eps can round away from x, such pixels are brought back to the nearest number within eps.

Goodfellow, Shlens, Szegedy: Explaining and Harnessing Adversarial Examples, 2014, arXiv:1412.6572.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from oculi.data.datasets import batches
from oculi.learn.training import cached
from oculi.system import System, evaluating
from oculi.types import Batch


def loss_gradient(system: System, batch: Batch) -> Float[Tensor, "b c h w"]:
    """The gradient of the summed losses with respect to the pictures; nothing else gets one.

    Raises ValueError when the system has no loss, the batch no pictures, or the loss does not depend on them.
    """
    if not system.can("loss"):
        raise ValueError(f"system: expected one that learns by gradient, got {type(system).__name__} without a loss")
    if batch.image is None:
        raise ValueError("batch.image: expected pictures to attack, got None")
    image = batch.image.detach().clone().requires_grad_()
    with evaluating(system), torch.enable_grad():
        total = torch.stack(list(system.loss(replace(batch, image=image)).values())).sum()
        gradient = torch.autograd.grad(total, image, allow_unused=True)[0] if total.requires_grad else None
    if gradient is None:
        raise ValueError(f"system: the loss of {type(system).__name__} does not depend on the pictures")
    return gradient


def project(changed: Tensor, image: Float[Tensor, "*shape"], eps: float) -> Float[Tensor, "*shape"]:
    """The nearest valid picture within eps of `image`: max |result - image| <= eps exactly, result in [0, 1]."""
    budget = torch.tensor(eps, dtype=image.dtype, device=image.device)
    if float(budget) > eps:
        budget = torch.nextafter(budget, torch.zeros_like(budget))
    result = torch.minimum(torch.maximum(changed, image - budget), image + budget).clamp(0, 1)
    return torch.where((result - image).abs() > budget, torch.nextafter(result, image), result)


def check_budget(eps: float) -> None:
    """Raise ValueError unless 0 <= eps <= 1."""
    if not 0 <= eps <= 1:
        raise ValueError(f"eps: expected 0 to 1, since pictures are, got {eps}")


@dataclass(frozen=True)
class FGSM:
    """One step of size `eps` against any System with a loss."""

    eps: float = 8 / 255

    def __post_init__(self) -> None:
        check_budget(self.eps)

    def __call__(self, system: System, batch: Batch) -> Float[Tensor, "b c h w"]:
        """Adversarial pictures for the batch's pictures and labels."""
        gradient = loss_gradient(system, batch)
        assert batch.image is not None  # loss_gradient has checked it
        image = batch.image.detach()
        return project(image + self.eps * gradient.sign(), image, self.eps)


def accuracy_under(system: System, data: list[Batch], attack: object = None) -> float:
    """The share of pictures that a classifier still gets right, each batch attacked first where `attack` is given."""
    right, count = 0, 0
    for batch in data:
        shown = batch if attack is None else replace(batch, image=attack(system, batch))  # type: ignore[operator]
        with evaluating(system):
            right += int((system(shown.image).argmax(-1) == shown.label).sum())
        count += len(batch)
    return right / count


def experiment(eps: list[float] = [0.02, 0.05, 0.1, 0.2], pictures: int = 500) -> dict[str, float]:  # noqa: B006
    """Accuracy of the digits ResNet at each budget; `largest_rise` is above 0 where more budget gave more accuracy."""
    run = cached("resnet")
    test = [run.splits.test[i] for i in range(min(pictures, len(run.splits.test)))]
    data = list(batches(test, 100))
    figures = {"accuracy_clean": accuracy_under(run.system, data)}
    for budget in eps:
        figures[f"accuracy_at_{budget:g}"] = accuracy_under(run.system, data, FGSM(budget))
    curve = list(figures.values())
    figures["largest_rise"] = max(after - before for before, after in pairwise(curve))
    figures["drop"] = curve[0] - curve[-1]
    return figures
