"""A recipe that starts from another one's weights, changed or not, and a baseline that learns in its own way."""

from dataclasses import replace

import pytest
import torch

from oculi import catalogue
from oculi.backbones.resnet import ResNet
from oculi.catalogue import BadRecipe
from oculi.data.sources import open_data
from oculi.learn import reproduction
from oculi.learn.training import build, source_recipe, train
from oculi.system import BadCheckpoint, save

SMALL = {"steps": 2, "batch_size": 8}


def tuned(**changed):
    recipe = catalogue.recipe("fine_tuning")
    source = {"arguments.depths": [1, 1], "arguments.width": 8, "arguments.num_classes": 6, "training.steps": 2,
              "data.name": "class_split", "data.source": "digits", "data.first": 0, "data.last": 6, **changed}  # fmt: skip
    data = {"name": "class_split", "source": "digits", "first": 6, "last": 10, "per_class": 8}
    arguments = {**recipe.tiny, "num_classes": 4}
    training = {**SMALL, "freeze": -1, "init_from": "resnet", "init_with": source}
    return replace(recipe, arguments=arguments, data=data, training=training)


def test_the_trunk_comes_from_the_source_and_stays_frozen():
    recipe = tuned()
    (source,) = source_recipe(recipe)
    assert (source.arguments["num_classes"], source.data["last"]) == (6, 6)
    run = train(recipe, progress=False)
    from oculi.learn.training import cached

    kept = cached(source, progress=False).system.state_dict()
    found = run.system.trunk.state_dict()
    assert all((found[key] == kept[key]).all() for key in found)
    assert source_recipe(catalogue.recipe("resnet")) == []


def test_weights_that_do_not_fit_are_named():
    with pytest.raises(BadRecipe, match="init_from: resnet's weights do not fit"):
        train(tuned(**{"arguments.width": 4}), progress=False)


def test_a_trunk_starts_from_a_network_like_it():
    system = build("detr", tiny=True)
    source = ResNet(7, depths=[1, 1], width=4, image_size=48)
    source.set_statistics(torch.full((3,), 0.3), torch.full((3,), 0.2))
    head = system.classes.weight.detach().clone()
    system.adopt(source)
    found, given = system.trunk.state_dict(), source.state_dict()
    assert all(torch.equal(found[key], given[key]) for key in found if not key.startswith("pixel_"))
    assert float(system.trunk.pixel_mean.sum()) == 0, "its pictures come normalised"
    assert torch.equal(system.classes.weight, head)
    with pytest.raises(ValueError, match="its weights do not fit, first at stem"):
        system.adopt(ResNet(7, depths=[1, 1], width=8))


def test_weights_in_a_folder_start_a_detector_of_other_classes(tmp_path):
    source = build("faster_rcnn", tiny=True, num_classes=5)
    source.set_statistics(torch.full((3,), 0.3), torch.full((3,), 0.2))
    save(source, tmp_path / "source")
    data = {"data.name": "world", "data.task": "detection", "data.size": 32, "data.train": 4, "data.test": 2}
    overrides = {
        **data,
        "arguments.num_classes": 2,
        "training.steps": 0,
        "training.init_from": str(tmp_path / "source"),
    }
    splits = open_data("world", task="detection", size=32, train=4, validation=2, test=2)
    splits = replace(splits, class_names=["cat", "dog"])
    run = train("faster_rcnn", tmp_path / "run", overrides, progress=False, splits=splits)
    assert run.system.config == {**source.config, "num_classes": 2}, "the architecture is that of the weights"
    assert run.system.class_names == ["cat", "dog"]
    found, given = run.system.state_dict(), source.state_dict()
    afresh = [key for key in given if found[key].shape != given[key].shape]
    assert afresh, "layers that depend on the classes"
    assert all(torch.equal(found[key], given[key]) for key in given if key not in afresh)
    again = train("faster_rcnn", None, {**overrides, "arguments.num_classes": 5}, progress=False)
    assert all(torch.equal(value, given[key]) for key, value in again.system.state_dict().items())
    with pytest.raises(BadRecipe, match="weights do not fit"):
        train("faster_rcnn", None, {**overrides, "arguments.width": 6}, progress=False, splits=splits)
    with pytest.raises(BadCheckpoint, match="nor a published name"):
        train("faster_rcnn", None, {**overrides, "training.init_from": "runs/no/thing"}, progress=False, splits=splits)
    with pytest.raises(BadRecipe, match="did you mean resnet"):
        train("faster_rcnn", None, {**overrides, "training.init_from": "resnt"}, progress=False, splits=splits)


def test_a_baseline_may_change_its_training(monkeypatch):
    seen = []
    monkeypatch.setattr(reproduction, "evaluate", lambda *_: {"accuracy": 0.5})
    real = reproduction.train
    monkeypatch.setattr(reproduction, "train", lambda r, *a, **k: seen.append(k.get("overrides")) or real(r, *a, **k))
    recipe = replace(tuned(), baseline={"pretrained": False, "training.freeze": 0})
    figures = reproduction.run_recipe(recipe, progress=False)
    assert seen[-1] == {"arguments.pretrained": False, "training.freeze": 0}
    assert figures == {"accuracy": 0.5, "baseline_accuracy": 0.5, "gain_accuracy": 0.0}
