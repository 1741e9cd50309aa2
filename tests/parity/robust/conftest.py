"""torchattacks, the oracle of the attacks; it is installed beside the environment, not in it."""

import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def torchattacks() -> ModuleType:
    folder = str(Path(sys.prefix) / "oracles")
    sys.path.append(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pytest.importorskip("torchattacks", reason="make oracles installs it", exc_type=ImportError)
    finally:
        sys.path.remove(folder)
