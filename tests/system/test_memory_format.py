"""On a CPU an evaluated system works channels last, however it came to be; the files it writes are laid out as ever."""

import torch
from safetensors.torch import load_file

import oculi
from oculi.learn.training import build


def channels_last(weight):
    return weight.is_contiguous(memory_format=torch.channels_last)


def test_weights_and_pictures_of_an_evaluated_system(tmp_path):
    system = build("resnet", tiny=True).train()
    images = torch.rand(2, system.contract.channels, 16, 16)
    weight = system.stages[0][0].convs[0][0].weight
    assert not channels_last(weight)
    before = system.eval()(images)
    assert channels_last(weight), "the same parameter, laid out anew"
    assert channels_last(system.normalize(images))
    oculi.save(system, tmp_path)
    assert all(tensor.is_contiguous() for tensor in load_file(tmp_path / "model.safetensors").values())
    again = oculi.load(tmp_path)
    assert all(channels_last(p) for p in again.parameters() if p.ndim == 4)
    assert torch.equal(again(images), before)
    assert channels_last(again.train().stages[0][0].convs[0][0].weight), "training goes on in the same layout"
