"""Every system with layers: quantised, it answers the declared kind, validly, in fewer bytes, and is itself unchanged."""

import copy

import pytest
import torch

from contract.tiny import SYSTEMS, batch_for, ready
from oculi.compress.post_training_quantization import (
    PostTrainingQuantization,
    QuantizedLayer,
    load_quantized,
    save_quantized,
)
from oculi.learn.verbs import cannot
from oculi.system import predict

COMPRESSED = [r for r in SYSTEMS if "compress" not in cannot(r)]


def bytes_of(system) -> int:
    return sum(value.nbytes for value in system.state_dict().values())


@pytest.mark.parametrize("recipe", COMPRESSED, ids=lambda r: r.id)
def test_it_is_smaller_and_answers_alike(recipe, tmp_path):
    system = ready(recipe.id)
    batch = batch_for(system, 4)
    kept = copy.deepcopy(system.state_dict())
    small = PostTrainingQuantization()(system, [batch])
    layers = [m for m in small.modules() if isinstance(m, QuantizedLayer)]
    assert layers
    assert all(layer.integers.dtype == torch.int8 for layer in layers)
    assert bytes_of(small) < bytes_of(system)
    answers = predict(small, batch)
    assert len(answers) == 4
    for answer in answers:
        assert type(answer) is system.answer
        assert all(bool(torch.isfinite(v).all()) for v in vars(answer).values() if isinstance(v, torch.Tensor))
    assert all(torch.equal(value, kept[key]) for key, value in system.state_dict().items())
    again = predict(load_quantized(save_quantized(small, tmp_path), system), batch)
    for one, other in zip(answers, again, strict=True):
        for a, b in zip(vars(one).values(), vars(other).values(), strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
