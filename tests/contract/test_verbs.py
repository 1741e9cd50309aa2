"""What a recipe says its system cannot do is true both ways: those verbs refuse with the reason, all others work."""

from dataclasses import asdict

import pytest
import yaml

from contract.tiny import SYSTEMS, ready
from oculi import catalogue
from oculi.cli import main
from oculi.learn.verbs import VERBS, cannot
from oculi.system import save

REFUSED = [
    pytest.param(recipe, verb, id=f"{recipe.id}-{verb}")
    for recipe in SYSTEMS
    for verb in ("predict", "explain", "attack", "compress", "export")
    if verb in cannot(recipe)
]


@pytest.mark.parametrize(("recipe", "verb"), REFUSED)
def test_what_it_cannot_do_is_refused_with_the_reason(recipe, verb, tmp_path, capsys):
    folder = save(ready(recipe.id), tmp_path / "run")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(asdict(recipe)))
    words = {"predict": ["a.png"], "explain": ["a.png"], "compress": ["small"]}.get(verb, [])
    assert main([verb, str(folder), *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"oculi: {recipe.id} cannot {verb}: {cannot(recipe)[verb]}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("recipe", SYSTEMS, ids=lambda r: r.id)
def test_reasons_are_given_for_verbs_that_there_are(recipe):
    assert set(recipe.cannot) <= set(VERBS)
    assert all(len(reason) > 10 for reason in recipe.cannot.values())


def test_methods_have_no_verbs():
    assert set(cannot(catalogue.recipe("fgsm"))) == set(VERBS)
