"""Recipes and the command line: a misspelt word is an error that names the nearest."""

import json

import pytest

from oculi import catalogue
from oculi.catalogue import BadRecipe, read_recipe
from oculi.cli import main
from oculi.learn.reproduction import missed

GOOD = """
title: A
summary: B
paper: C
system: oculi.backbones.resnet.ResNet
score: {accuracy: ">= 0.5"}
"""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("titel: A", "did you mean title"),
        ("title: A", "missing"),
        ("- a", "keys and values"),
        ("a: [", "not YAML"),
        (GOOD + "arguments: {num_clases: 3}", "did you mean num_classes"),
        (GOOD + "tiny: {depht: 3}", "did you mean depths"),
    ],
)
def test_bad_recipes_are_named(tmp_path, content, message):
    path = tmp_path / "a.yaml"
    path.write_text(content)
    with pytest.raises(BadRecipe, match=message):
        read_recipe(path)


def test_unknown_names_point_to_the_nearest(capsys):
    with pytest.raises(BadRecipe, match="did you mean resnet"):
        catalogue.recipe("resnt")
    assert main(["show", "resnt"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "resnet" in error


@pytest.mark.parametrize(
    "words",
    [
        ["trian"],
        ["train", "resnet", "--training.stps", "3"],
        ["train", "resnet", "--arguments.widht", "3"],
        ["train", "resnet", "--data.name", "digts"],
        ["train", "resnet", "--data.path", "x"],
        ["evaluate", "nowhere"],
        ["predict", "nowhere", "a.png"],
        ["reproduce"],
        ["show", "resnet", "--training.lr", "1"],
        ["new", "Bad Name"],
    ],
)
def test_bad_input_is_one_line_and_status_two(words, capsys):
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("oculi: ")


def test_list_and_show_as_json(capsys):
    assert main(["list", "--json"]) == 0
    assert "resnet" in {row["id"] for row in json.loads(capsys.readouterr().out)}
    assert main(["show", "resnet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["arguments"]["width"] == "64"


def test_a_few_steps_through_the_command_line(capsys, tmp_path):
    words = ["train", "resnet", "--folder", "run", "--training.steps", "3", "--arguments.width", "4", "--json"]
    assert main(words) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["accuracy"] <= 1
    assert main(["evaluate", "run", "--split", "validation", "--json"]) == 0
    capsys.readouterr()
    from PIL import Image

    Image.new("RGB", (30, 20), (200, 10, 10)).save("a.png")
    assert main(["predict", "run", "a.png", "--out", "drawn", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["picture"] == "a.png"
    assert (tmp_path / "drawn" / "a.png").is_file()


def test_new_writes_three_stubs(tmp_path, capsys):
    (tmp_path / "src" / "oculi").mkdir(parents=True)
    assert main(["new", "detect/my_system"]) == 0
    assert (tmp_path / "src/oculi/detect/my_system.py").is_file()
    assert main(["new", "detect/my_system"]) == 2


def test_missed_scores_are_sentences():
    assert missed({"accuracy": 0.9}, {"accuracy": ">= 0.8"}) == []
    assert missed({"accuracy": 0.7}, {"accuracy": ">= 0.8"}) == ["accuracy 0.7, expected >= 0.8"]
    with pytest.raises(BadRecipe, match="did you mean accuracy"):
        missed({"accuracy": 0.7}, {"acuracy": ">= 0.8"})
    with pytest.raises(BadRecipe, match="comparison"):
        missed({"accuracy": 0.7}, {"accuracy": "high"})


def test_headlines_are_what_the_recipes_say():
    read = [{"id": r.id, "family": r.family, "title": r.title, "summary": r.summary} for r in catalogue.recipes()]
    assert catalogue.headlines() == read


def test_another_source_takes_none_of_the_options_of_the_first():
    recipe = catalogue.recipe("faster_rcnn")
    assert recipe.with_overrides({"data.size": 32}).data == {**recipe.data, "size": 32}
    changed = recipe.with_overrides({"data.path": "a.json", "data.name": "coco"})
    assert changed.data == {"path": "a.json", "name": "coco"}
