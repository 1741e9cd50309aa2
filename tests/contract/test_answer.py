"""Every system that answers: the declared kind, valid, the same alone as in a batch, drawn and turned into JSON."""

import json

import pytest
import torch

from contract.tiny import PICTURES, SYSTEMS, batch_for, fresh, ready
from oculi.system import load, predict, save


def tensors(answer):
    return [value for value in vars(answer).values() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("recipe", PICTURES, ids=lambda r: r.id)
def test_answers_are_valid_and_of_the_declared_kind(recipe):
    system = ready(recipe.id)
    batch = batch_for(system, 3)
    answers = predict(system, batch)
    assert len(answers) == 3
    for answer, image in zip(answers, batch.image, strict=True):
        assert type(answer) is system.answer
        assert all(torch.isfinite(t).all() for t in tensors(answer) if t.is_floating_point())
        json.dumps(answer.to_dict())
        assert answer.plot(image).width > 0


@pytest.mark.parametrize("recipe", PICTURES, ids=lambda r: r.id)
def test_answer_is_the_same_alone_as_in_a_batch(recipe):
    import dataclasses

    system = ready(recipe.id)
    batch = batch_for(system, 3)
    together = predict(system, batch)[1]
    alone = dataclasses.replace(
        batch,
        **{
            f.name: value[1:2] if not hasattr(value, "world_to_camera") else type(value).stack([value[1]])
            for f in dataclasses.fields(batch)
            if (value := getattr(batch, f.name)) is not None
        },
    )
    for a, b in zip(tensors(together), tensors(predict(system, alone)[0]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", SYSTEMS, ids=lambda r: r.id)
def test_saved_and_loaded_it_is_the_same_bit_for_bit(recipe, tmp_path):
    system = fresh(recipe).eval()
    save(system, tmp_path)
    again = load(tmp_path)
    assert again.config == system.config
    assert again.contract == system.contract
    mine, theirs = system.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("recipe", SYSTEMS, ids=lambda r: r.id)
def test_cannot_is_true_both_ways(recipe):
    kind = type(ready(recipe.id))
    for verb in ("sample", "render"):
        assert verb not in recipe.cannot or not kind.can(verb), f"{recipe.id} says it cannot {verb} but has it"
    assert kind.can("predict") or "predict" in recipe.cannot
