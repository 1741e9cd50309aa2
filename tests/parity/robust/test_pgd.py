"""PGD and iterative FGSM against torchattacks."""

import pytest
import torch

from oculi.backbones.resnet import ResNet
from oculi.robust.fgsm import FGSM
from oculi.robust.pgd import PGD
from oculi.types import Batch
from oracles import torchattacks


def tiny():
    torch.manual_seed(0)
    return ResNet(5, [1, 1], width=8, stem="small", in_channels=3, image_size=16).eval()


def batch(n=4):
    return Batch(image=torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(1)), label=torch.arange(n) % 5)


@pytest.mark.parametrize("name", ["PGD", "BIM"])
def test_without_random_start_equals_torchattacks(name):
    system, data = tiny(), batch()
    options = {"random_start": False} if name == "PGD" else {}
    theirs = getattr(torchattacks(), name)(system, eps=0.05, alpha=0.02, steps=4, **options)(data.image, data.label)
    ours = PGD(0.05, 0.02, 4, random_start=False)(system, data)
    # a gradient that is zero but for rounding may have another sign, so a handful of pixels may differ
    assert ((ours - theirs).abs() > 1e-6).float().mean() < 1e-3


def test_one_step_as_long_as_the_budget_is_fgsm():
    system, data = tiny(), batch()
    assert torch.equal(PGD(0.05, 0.05, 1, random_start=False)(system, data), FGSM(0.05)(system, data))


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("eps", [1 / 255, 0.1, 1 / 3])
def test_budget_holds_exactly(eps, random_start):
    data = batch(8)
    changed = PGD(eps, eps / 2, 4, random_start)(tiny(), data)
    assert float((changed - data.image).abs().max()) <= eps
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1


def test_seed_decides_and_more_steps_raise_the_loss_more():
    system, data = tiny(), batch()
    assert torch.equal(PGD(seed=3)(system, data), PGD(seed=3)(system, data))
    assert not torch.equal(PGD(seed=3)(system, data), PGD(seed=4)(system, data))

    def loss(image):
        return float(system.loss(Batch(image=image, label=data.label))["cross_entropy"].detach())

    strong = PGD(0.05, 0.01, 10, random_start=False)(system, data)
    assert loss(strong) >= loss(FGSM(0.05)(system, data)) > loss(data.image)
    assert all(p.grad is None for p in system.parameters())


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="step: expected above 0"):
        PGD(step=0.0)
    with pytest.raises(ValueError, match="steps: expected at least 1, got 0"):
        PGD(steps=0)
    with pytest.raises(ValueError, match="eps"):
        PGD(eps=-0.1)
