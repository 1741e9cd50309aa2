"""Every system: built from its tiny arguments and one step of learning, quickly; its configuration is plain JSON."""

import inspect
import json
import time

import pytest
import torch

from contract.tiny import LEARNERS, SYSTEMS, batch_for, fresh, ready
from oculi.learn.training import build, system_class


@pytest.mark.parametrize("recipe", LEARNERS, ids=lambda r: r.id)
def test_tiny_is_quick(recipe):
    """Under 0.3 seconds of processor time; the best of three, since the first may still import."""
    seconds = []
    for _ in range(3):
        began = time.process_time()
        system = fresh(recipe).train()
        torch.stack(list(system.loss(batch_for(system, 8)).values())).sum().backward()
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.3


@pytest.mark.parametrize("recipe", SYSTEMS, ids=lambda r: r.id)
def test_the_recipes_own_arguments_build(recipe):
    system = build(recipe)
    assert json.loads(json.dumps(system.config)) == system.config
    assert {key: system.config[key] for key in recipe.arguments} == recipe.arguments
    assert all(bool(torch.isfinite(value).all()) for value in system.state_dict().values())


@pytest.mark.parametrize("recipe", SYSTEMS, ids=lambda r: r.id)
def test_arguments_are_few_and_have_defaults(recipe):
    arguments = list(inspect.signature(system_class(recipe).__init__).parameters.values())[1:]
    assert len(arguments) <= 12
    assert all(a.default is not a.empty for a in arguments)
    assert not ready(recipe.id).training
