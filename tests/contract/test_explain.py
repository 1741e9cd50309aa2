"""Every classifier: a heat map in [0, 1] that depends on what was learned."""

import copy

import pytest
import torch

from contract.tiny import SYSTEMS, batch_for, ready
from oculi.explain.grad_cam import GradCAM
from oculi.learn.verbs import cannot

EXPLAINED = [r for r in SYSTEMS if "explain" not in cannot(r)]


def randomised(system, seed: int):
    fresh = copy.deepcopy(system)
    torch.manual_seed(seed)
    for parameter in fresh.parameters():
        parameter.data.copy_(0.3 * torch.randn(parameter.shape))  # the same numbers whatever the memory format
    if fresh.can("fit"):
        fresh.fit([batch_for(fresh, 8)])
    return fresh


@pytest.mark.parametrize("recipe", EXPLAINED, ids=lambda r: r.id)
def test_the_explanation_changes_with_the_weights(recipe):
    system = ready(recipe.id)
    image = batch_for(system, 4).image
    kept = copy.deepcopy(system.state_dict())
    one, other = (GradCAM()(randomised(system, seed), image) for seed in (1, 2))
    for heat in (one, other, GradCAM()(system, image)):
        assert heat.shape == image[:, 0].shape
        assert float(heat.min()) >= 0
        assert float(heat.max()) <= 1
    assert float((one - other).abs().mean()) > 0.02
    assert all(torch.equal(value, kept[key]) for key, value in system.state_dict().items())
    assert all(p.grad is None for p in system.parameters())


@pytest.mark.parametrize("recipe", EXPLAINED, ids=lambda r: r.id)
def test_it_is_the_same_alone_as_in_a_batch(recipe):
    system = randomised(ready(recipe.id), 1)
    image, target = batch_for(system, 3).image, torch.zeros(3, dtype=torch.int64)
    together = GradCAM()(system, image, target)[1]
    torch.testing.assert_close(GradCAM()(system, image[1:2], target[:1])[0], together, rtol=1e-3, atol=1e-3)


def test_classifiers_are_explained():
    assert {r.id for r in EXPLAINED} >= {"resnet", "vit", "prototypical_networks", "mean_teacher"}
