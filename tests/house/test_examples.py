"""Every `>>>` in a docstring runs and gives what it says."""

import doctest
import importlib
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
WITH_EXAMPLES = sorted(path for path in SOURCE.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))


def module(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("name", [module(path) for path in WITH_EXAMPLES])
def test_examples_run(name):
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0, "an example that no function's docstring holds is not run"
    assert found.failed == 0


@pytest.mark.parametrize("package", ["ops", "metrics"])
def test_there_are_examples(package):
    files = [path for path in (SOURCE / "oculi" / package).glob("*.py") if path.stem != "__init__"]
    without = [path.stem for path in files if path not in WITH_EXAMPLES]
    assert len(without) <= len(files) / 3, without
