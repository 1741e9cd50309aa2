"""Every system that learns from pictures: an attack keeps its budget, gives pictures, and leaves the system alone."""

import copy
from dataclasses import replace

import pytest
import torch

from contract.tiny import SYSTEMS, batch_for, ready
from oculi.learn.verbs import cannot
from oculi.robust.fgsm import FGSM
from oculi.robust.pgd import PGD

ATTACKED = [r for r in SYSTEMS if "attack" not in cannot(r)]
EPS = 0.03
MOVING = "its proposals move with the picture but carry no gradient"
PARTIAL = dict.fromkeys(
    ("faster_rcnn", "mask_rcnn", "keypoint_rcnn", "panoptic_fpn", "fast_rcnn", "rcnn", "mesh_rcnn"), MOVING
)
PARTIAL["sam"] = "its simulated clicks jump with the picture and carry no gradient"
PARTIAL["yolo_anchor_free"] = "what its cells are to say moves with the picture and carries no gradient"


@pytest.mark.parametrize("method", [FGSM(EPS), PGD(EPS, step=0.01, steps=3)], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("recipe", ATTACKED, ids=lambda r: r.id)
def test_the_budget_holds(recipe, method):
    system = ready(recipe.id)
    batch = batch_for(system, 8)
    kept = copy.deepcopy(system.state_dict())
    image = batch.image.clone()
    changed = method(system, batch)
    assert changed.shape == image.shape
    assert bool(torch.isfinite(changed).all())
    assert float((changed - image).abs().max()) <= EPS
    assert float((changed - image).abs().max()) > 0
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    assert torch.equal(batch.image, image)
    assert not system.training
    assert all(torch.equal(value, kept[key]) for key, value in system.state_dict().items())
    assert all(p.grad is None for p in system.parameters())


@pytest.mark.parametrize("recipe", [r for r in ATTACKED if r.id not in PARTIAL], ids=lambda r: r.id)
def test_the_loss_rises(recipe):
    """One small step by the sign of the gradient, under the same random numbers."""
    system = ready(recipe.id)
    batch = batch_for(system, 8)

    def loss(image):
        torch.manual_seed(0)
        with torch.no_grad():
            return float(torch.stack(list(system.loss(replace(batch, image=image)).values())).sum())

    torch.manual_seed(0)
    assert loss(FGSM(0.002)(system, batch)) > loss(batch.image)
