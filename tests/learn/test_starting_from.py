"""A recipe that starts from another one's weights, changed or not, and a baseline that learns in its own way."""

from dataclasses import replace

import pytest

from oculi import catalogue
from oculi.catalogue import BadRecipe
from oculi.learn import reproduction
from oculi.learn.training import source_recipe, train

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


def test_a_baseline_may_change_its_training(monkeypatch):
    seen = []
    monkeypatch.setattr(reproduction, "evaluate", lambda *_: {"accuracy": 0.5})
    real = reproduction.train
    monkeypatch.setattr(reproduction, "train", lambda r, *a, **k: seen.append(k.get("overrides")) or real(r, *a, **k))
    recipe = replace(tuned(), baseline={"pretrained": False, "training.freeze": 0})
    figures = reproduction.run_recipe(recipe, progress=False)
    assert seen[-1] == {"arguments.pretrained": False, "training.freeze": 0}
    assert figures == {"accuracy": 0.5, "baseline_accuracy": 0.5, "gain_accuracy": 0.0}
