"""The Learner equals a plain loop bit for bit, resumes bit-equal after a kill, and says when training diverges."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from oculi.data.datasets import training_batches
from oculi.data.digits import load as digits
from oculi.learn.learner import Diverged, Training, fit, seed_everything
from oculi.learn.optimisation import lr_factor
from oculi.learn.training import build

OPTIONS = {"steps": 12, "batch_size": 16, "optimizer": "sgd", "lr": 0.05, "warmup": 3, "schedule": "cosine"}


def make():
    seed_everything(0)
    system = build("resnet", tiny=True)
    return system, digits().prepared(system.contract)


def test_equals_a_plain_loop_bit_for_bit():
    learned, splits = make()
    fit(learned, Training(**OPTIONS), splits, progress=False)
    plain, _ = make()
    plain.to(memory_format=torch.channels_last)  # as the Learner's
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: lr_factor(s, Training(**OPTIONS), 12))
    plain.train()
    for batch in training_batches(splits.train, 16, 12, seed=0):
        optimizer.zero_grad()
        plain.loss(batch)["cross_entropy"].backward()
        optimizer.step()
        schedule.step()
    for mine, theirs in zip(learned.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_cosine_equals_torch_and_warm_up_ramps():
    options = Training(steps=20, schedule="cosine", lr=1.0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    for step in range(20):
        assert lr_factor(step, options, 20) == pytest.approx(cosine.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        cosine.step()
    warm = Training(warmup=4)
    assert [lr_factor(s, warm, 100) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


RUN = """
import sys, time, torch
from oculi.learn import learner
from oculi.learn.training import build
from oculi.data.digits import load
from pathlib import Path
torch.set_num_threads(1)
learner.seed_everything(0)
system = build("resnet", tiny=True)
splits = load().prepared(system.contract)
slow = float(sys.argv[2])
class Slow(learner.Callback):
    def on_train_batch_end(self, *_): time.sleep(slow)
options = learner.Training(steps=30, batch_size=16, optimizer="adam", lr=0.01, ema=0.9, augment={"noise": 0.1, "shift": 0.1})
learner.fit(system, options, splits, Path(sys.argv[1]), resume=True, progress=False, checkpoint_every=3, callbacks=[Slow()])
torch.save(system.state_dict(), sys.argv[1] + "/final.pt")
"""


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, straight, "0"], check=True, env=environment, capture_output=True
    )
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", RUN, killed, "0.2"], env=environment)
    deadline = time.monotonic() + 60
    while not (killed / "last.ckpt").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.7)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "final.pt").exists()
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, killed, "0"], check=True, env=environment, capture_output=True
    )
    one = torch.load(straight / "final.pt", weights_only=True)
    two = torch.load(killed / "final.pt", weights_only=True)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_divergence_names_step_and_terms():
    system, splits = make()
    with pytest.raises(Diverged, match=r"step \d+ .*cross_entropy"):
        fit(system, Training(steps=50, batch_size=16, optimizer="sgd", lr=1e20), splits, progress=False)


def test_logs_are_written(tmp_path):
    system, splits = make()
    fit(system, Training(**OPTIONS), splits, tmp_path, progress=False)
    assert "train/loss" in (tmp_path / "metrics.csv").read_text()
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_a_checkpoint_holds_everything(tmp_path):
    """Weights, moving average, both moments of Adam, schedule, step and random state: what the next step depends on."""
    system, splits = make()
    options = Training(steps=4, batch_size=16, optimizer="adam", schedule="cosine", ema=0.9, augment={"noise": 0.1})
    learner = fit(system, options, splits, tmp_path, progress=False, checkpoint_every=4)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["oculi"]["steps_done"] == 4
    assert kept["oculi"]["torch"].dtype == torch.uint8
    weights = {key.removeprefix("system."): v for key, v in kept["state_dict"].items() if key.startswith("system.")}
    assert weights.keys() == system.state_dict().keys()
    for key, value in learner.average.module.state_dict().items():
        assert torch.equal(kept["state_dict"][f"average.module.{key}"], value)
        assert torch.equal(system.state_dict()[key], value)  # the average is what is kept of the run
    (optimizer,) = kept["optimizer_states"]
    assert len(optimizer["state"]) == len(list(system.parameters()))
    assert all({"exp_avg", "exp_avg_sq", "step"} <= state.keys() for state in optimizer["state"].values())
    assert kept["lr_schedulers"][0]["last_epoch"] == 4
