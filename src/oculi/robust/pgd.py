r"""Projected gradient descent, the strong white-box attack: ascend the loss, come back to the budget after each step.

    x_0     = clip(x + u),  u ~ U(-eps, eps) per pixel           (random_start; x_0 = x without)
    x_{k+1} = clip_{x,eps}(x_k + step sign(grad_x J(x_k, y)))

clip_{x,eps} is the projection to max |x' - x| <= eps and to valid pixels [0, 1]; both hold exactly in floating point.
Without the random start this is iterative FGSM (the basic iterative method), and one such step with step = eps is FGSM.

    image, result    batch x C x H x W, in [0, 1]
    eps, step        largest change in all and per step, in the picture's units

The system is in eval mode meanwhile; weights, their gradients and the mode are left as they were. Differs from the
paper in having one random start, not the worst of several.

Madry, Makelov, Schmidt, Tsipras, Vladu: Towards Deep Learning Models Resistant to Adversarial Attacks, 2017,
arXiv:1706.06083. Kurakin, Goodfellow, Bengio: Adversarial Examples in the Physical World, 2016, arXiv:1607.02533.
Szegedy et al.: Intriguing Properties of Neural Networks, 2013, arXiv:1312.6199.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from oculi.data.datasets import batches
from oculi.learn.training import cached
from oculi.robust.fgsm import FGSM, accuracy_under, check_budget, loss_gradient, project
from oculi.system import System
from oculi.types import Batch


@dataclass(frozen=True)
class PGD:
    """`steps` steps of size `step` within `eps`, against any System with a loss; the same seed gives the same bits."""

    eps: float = 8 / 255
    step: float = 2 / 255
    steps: int = 10
    random_start: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_budget(self.eps)
        if self.step <= 0:
            raise ValueError(f"step: expected above 0, got {self.step}")
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, got {self.steps}")

    def __call__(self, system: System, batch: Batch) -> Float[Tensor, "b c h w"]:
        """Adversarial pictures for the batch's pictures and labels."""
        if batch.image is None:
            raise ValueError("batch.image: expected pictures to attack, got None")
        image = batch.image.detach()
        changed = image.clone()
        if self.random_start:
            noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(self.seed)).to(image)
            changed = project(image + (2 * noise - 1) * self.eps, image, self.eps)
        for _ in range(self.steps):
            gradient = loss_gradient(system, replace(batch, image=changed))
            changed = project(changed + self.step * gradient.sign(), image, self.eps)
        return changed


def experiment(
    eps: float = 0.1, step: float = 0.02, steps: int = 20, pictures: int = 300, seed: int = 0
) -> dict[str, float]:
    """Success, the share of the digits ResNet's right answers that turn wrong, with and without a random start.

    `excess` is by how much the largest change is above the budget, `invalid` by how much a pixel leaves [0, 1].
    """
    run = cached("resnet")
    test = [run.splits.test[i] for i in range(min(pictures, len(run.splits.test)))]
    data = list(batches(test, 100))
    clean = accuracy_under(run.system, data)
    attack = PGD(eps, step, steps, seed=seed)
    iterative = PGD(eps, step, steps, random_start=False)
    success = {
        "success": 1 - accuracy_under(run.system, data, attack) / clean,
        "success_iterative_fgsm": 1 - accuracy_under(run.system, data, iterative) / clean,
        "success_fgsm": 1 - accuracy_under(run.system, data, FGSM(eps)) / clean,
    }
    pairs = [(batch.image, attack(run.system, batch)) for batch in data[:1] if batch.image is not None]
    change = max(float((after - before).abs().max()) for before, after in pairs)
    invalid = max(max(-float(after.min()), float(after.max()) - 1) for _, after in pairs)
    return {"accuracy_clean": clean, **success, "excess": max(0.0, change - eps), "invalid": max(0.0, invalid)}
