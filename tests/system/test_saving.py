"""Saved systems: atomic, checked, and never a stranger's code."""

import json

import pytest

from oculi.learn.training import build
from oculi.system import CONFIG, WEIGHTS, BadCheckpoint, load, replacing, save


@pytest.fixture
def folder(tmp_path):
    return save(build("resnet", tiny=True), tmp_path / "saved")


def damage(folder, how):
    config = json.loads((folder / CONFIG).read_text())
    if how == "no weights":
        (folder / WEIGHTS).unlink()
    elif how == "no config":
        (folder / CONFIG).unlink()
    elif how == "torn config":
        (folder / CONFIG).write_text((folder / CONFIG).read_text()[:50])
    elif how == "torn weights":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    elif how == "foreign class":
        (folder / CONFIG).write_text(json.dumps({**config, "system": "os.system"}))
    elif how == "not a system":
        (folder / CONFIG).write_text(json.dumps({**config, "system": "oculi.system.InputContract"}))
    elif how == "other shape":
        config["arguments"]["width"] = 16
        (folder / CONFIG).write_text(json.dumps(config))
    elif how == "bad contract":
        config["input"]["height"] = -1
        (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no weights", "missing"),
        ("no config", "missing"),
        ("torn config", "not a saved system"),
        ("torn weights", "not a saved system"),
        ("foreign class", "not part of oculi"),
        ("not a system", "not a System"),
        ("other shape", "do not fit"),
        ("bad contract", "height"),
    ],
)
def test_damage_is_named(folder, how, message):
    damage(folder, how)
    with pytest.raises(BadCheckpoint, match=message):
        load(folder)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), replacing(path) as temporary:  # noqa: PT012 - the block must fail
        temporary.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
