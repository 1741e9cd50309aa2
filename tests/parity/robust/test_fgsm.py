"""FGSM against torchattacks; the budget holds exactly, nothing else is touched."""

import pytest
import torch

from oculi.backbones.resnet import ResNet
from oculi.robust.fgsm import FGSM, loss_gradient, project
from oculi.types import Batch, images_only
from oracles import torchattacks


def tiny():
    torch.manual_seed(0)
    return ResNet(5, [1, 1], width=8, stem="small", in_channels=3, image_size=16).eval()


def batch(n=4):
    return Batch(image=torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(1)), label=torch.arange(n) % 5)


@pytest.mark.parametrize("eps", [8 / 255, 0.1])
def test_equals_torchattacks(eps):
    system, data = tiny(), batch()
    theirs = torchattacks().FGSM(system, eps=eps)(data.image, data.label)
    torch.testing.assert_close(FGSM(eps)(system, data), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("eps", [0.0, 1 / 255, 0.1, 0.3, 1 / 3, 1.0])
def test_budget_holds_exactly(eps):
    data = batch(8)
    changed = FGSM(eps)(tiny(), data)
    assert float((changed - data.image).abs().max()) <= eps
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1


def test_projection_is_exact_on_many_numbers():
    image = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    for eps in (1e-3, 8 / 255, 0.1, 0.7):
        for far in (image + 2 * eps, image - 2 * eps, image + eps, image - eps):
            result = project(far, image, eps)
            assert float((result - image).abs().max()) <= eps
            assert float((result.double() - image.double()).abs().max()) <= eps
            assert 0 <= float(result.min()) <= float(result.max()) <= 1


def test_raises_the_loss_and_leaves_the_rest():
    system, data = tiny().train(), batch()
    state = {key: value.clone() for key, value in system.state_dict().items()}
    system.head.weight.grad = torch.ones_like(system.head.weight)
    original = data.image.clone()
    changed = FGSM(0.05)(system, data)
    assert system.training
    assert torch.equal(data.image, original)
    assert not data.image.requires_grad
    assert not changed.requires_grad
    assert torch.equal(system.head.weight.grad, torch.ones_like(system.head.weight))
    assert all(p.grad is None for n, p in system.named_parameters() if n != "head.weight")
    assert all(torch.equal(value, state[key]) for key, value in system.state_dict().items())
    system.eval()
    before = system.loss(data)["cross_entropy"]
    assert system.loss(Batch(image=changed, label=data.label))["cross_entropy"] > before


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"eps: expected 0 to 1, since pictures are, got 8\.0"):
        FGSM(8.0)
    with pytest.raises(ValueError, match=r"batch\.label"):
        FGSM()(tiny(), images_only(torch.rand(1, 3, 16, 16)))
    with pytest.raises(ValueError, match=r"batch\.image"):
        loss_gradient(tiny(), Batch(label=torch.arange(2)))
