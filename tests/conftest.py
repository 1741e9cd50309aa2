"""Shared by all tests: the network is off, and what a test writes lands in a folder of its own."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _unchecked_where_asked(request: pytest.FixtureRequest):
    """`@pytest.mark.unchecked`: bad input meets our own errors, as it would without the type checks of the tests."""
    from jaxtyping import config

    before = config.jaxtyping_disable
    if request.node.get_closest_marker("unchecked"):
        config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)
