"""A bare install says which extra a verb needs, in one line."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

import oculi.learn.learner  # noqa: F401 - whole, since imports that are broken off midway would break later tests
from oculi.cli import _EXTRAS, main

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
DISTRIBUTION = {
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
    "python-multipart": "multipart",
    "mlflow-skinny": "mlflow",
}


@pytest.mark.parametrize("extra", sorted(_EXTRAS))
def test_the_table_names_what_the_extra_installs(extra: str) -> None:
    asked = [line.partition(">=")[0] for line in PROJECT["optional-dependencies"][extra]]
    assert [DISTRIBUTION.get(name, name.replace("-", "_")) for name in asked] == list(_EXTRAS[extra])


@pytest.mark.parametrize(("module", "extra"), [("pytorch_lightning", "train"), ("sklearn", "science")])
def test_a_missing_extra_is_one_line(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for loaded in [name for name in sys.modules if name == "oculi.learn.learner" or name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)

    class Missing:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.partition(".")[0] == module:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    assert main(["train", "resnet", "--training.steps", "0"]) == 2
    error = capsys.readouterr().err
    assert error.strip().count("\n") == 0
    assert f"oculi[{extra}]" in error
