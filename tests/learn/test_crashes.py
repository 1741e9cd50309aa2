"""Crashes: a full disk leaves nothing half-written and costs no checkpoint; a run's folder has one writer."""

import contextlib
import errno
import resource
import subprocess
import sys
import threading

import pytest
import torch
from pytorch_lightning.callbacks import Callback

from oculi.cli import main
from oculi.data.digits import load as digits
from oculi.learn.learner import Training, fit, seed_everything
from oculi.learn.training import FolderInUse, build, only_writer, train
from oculi.system import CONFIG, WEIGHTS, load, save

TINY = {f"arguments.{key}": value for key, value in {"depths": [1, 1], "width": 8}.items()}


@contextlib.contextmanager
def full_beyond(size: int):
    """The kernel refuses every byte of a file beyond `size`, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_system_that_does_not_fit_leaves_the_old_one(tmp_path):
    folder = save(build("resnet", tiny=True), tmp_path / "saved")
    before = load(folder).state_dict()
    torch.manual_seed(5)
    with full_beyond(2000), pytest.raises(OSError, match=r"saved.*cannot be written"):
        save(build("resnet", tiny=True), folder)
    assert names(folder) == [CONFIG, WEIGHTS]
    assert all(torch.equal(value, before[key]) for key, value in load(folder).state_dict().items())


class Killed(Exception):
    """The machine goes down."""


class KillAt(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer, learner, *_):
        if learner.steps_done == self.step:
            raise Killed


def go(folder, killed_at: int = 0, resume: bool = False) -> None:
    """Six steps with a checkpoint at every second."""
    seed_everything(0)
    system = build("resnet", tiny=True)
    splits, options = digits().prepared(system.contract), Training(steps=6, batch_size=8)
    callbacks = [KillAt(killed_at)] if killed_at else []
    fit(system, options, splits, folder, resume, progress=False, checkpoint_every=2, callbacks=callbacks)


def test_a_checkpoint_that_does_not_fit_leaves_the_last_one(tmp_path):
    with pytest.raises(Killed):
        go(tmp_path, killed_at=3)
    last = (tmp_path / "last.ckpt").read_bytes()
    with full_beyond(len(last) // 2), pytest.raises(OSError, match="the run cannot be written") as caught:
        go(tmp_path, resume=True)
    assert caught.value.errno == errno.EFBIG
    assert (tmp_path / "last.ckpt").read_bytes() == last
    assert not list(tmp_path.glob(".*"))
    go(tmp_path, resume=True)
    assert (tmp_path / "last.ckpt").read_bytes() != last


def test_a_full_disk_is_one_line(tmp_path, capsys):
    words = ["train", "resnet", "--folder", "run", "--json", "--training.steps", "5", "--training.warmup", "0"]
    with full_beyond(100):
        assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "recipe.yaml" in error
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_writes_each_row_once(tmp_path):
    with pytest.raises(Killed):
        go(tmp_path, killed_at=4)
    with (tmp_path / "metrics.csv").open("a") as rows:
        rows.write("4,train/lo")  # torn as it was written
    go(tmp_path, resume=True)
    rows = [row.split(",") for row in (tmp_path / "metrics.csv").read_text().splitlines()]
    assert rows[0] == ["step", "metric", "value"]
    assert [row[0] for row in rows if row[1] == "train/loss"] == ["1", "2", "3", "4", "5", "6"]


def test_a_folder_has_one_writer(tmp_path):
    folder = tmp_path / "run"
    with only_writer(folder):
        with pytest.raises(FolderInUse, match="run: another run is writing there"):
            train("resnet", folder, {"training.steps": 1, **TINY}, progress=False)
        assert main(["train", "resnet", "--folder", str(folder), "--json"]) == 2
        assert names(folder) == []
    assert not folder.exists()


def test_who_waits_has_its_turn(tmp_path):
    order = []

    def second():
        with only_writer(tmp_path, wait=True):
            order.append("second")

    with only_writer(tmp_path):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.1)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]


def test_a_dead_run_lets_go(tmp_path):
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom oculi.learn.training import only_writer\n"
        "with only_writer(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == -9
    with only_writer(tmp_path):
        pass
