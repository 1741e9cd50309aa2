r"""Overfit one batch: once a network runs, its training error on a single batch must go to zero; if not, there is a bug.

    loss goes up      a flipped sign
    explodes          numerics or too high a rate
    oscillates        too high a rate, shuffled labels, bad augmentation
    plateaus          too low a rate, too much regularisation, the loss or the data pipeline

Karpathy: A Recipe for Training Neural Networks, 2019; Tobin: Troubleshooting Deep Neural Networks, 2019.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import dataclass, field, replace

from oculi.data.datasets import Dataset, Splits
from oculi.learn.diagnosis import Finding, diagnose
from oculi.learn.learner import Diverged, Training, fit
from oculi.learn.training_doctor import TrainingDoctor
from oculi.learn.training_record import Shape, curve_shape
from oculi.system import System
from oculi.types import Sample

CAUSES: dict[Shape, list[str]] = {
    "falls": [],
    "goes up": ["a flipped sign"],
    "explodes": ["numerics", "too high a rate"],
    "oscillates": ["too high a rate", "shuffled labels", "bad augmentation"],
    "plateaus": ["too low a rate", "too much regularisation", "the loss", "the data pipeline"],
}


@dataclass(frozen=True)
class Overfit:
    """reached: whether the last loss is below the target; shape of the curve, its causes, and what the doctor finds."""

    reached: bool
    shape: Shape
    loss: list[float]
    causes: list[str]
    findings: list[Finding] = field(default_factory=list)


def overfit_one_batch(
    system: System, dataset: Dataset, training: Training | None = None, samples: int = 16, target: float = 0.01
) -> Overfit:
    """Train a copy of `system` on the first few samples, read anew at every step, until the loss is below `target`.

    training: Adam with a rate of 3e-3 for 300 steps where None. A target below zero is for losses that can get there.
    """
    options = training or Training(steps=300, lr=3e-3)
    few = _First(dataset, min(samples, len(dataset)))
    if len(few) < 1:
        raise ValueError("dataset: expected at least one sample, got none")
    doctor = TrainingDoctor(samples=len(few), probes=4)
    with suppress(Diverged):
        fit(
            copy.deepcopy(system), replace(options, batch_size=len(few)), Splits(few, few, few), progress=False,
            callbacks=[doctor],
        )  # fmt: skip
    record = doctor.record
    shape = "explodes" if record.diverged is not None else curve_shape(record.loss, target)
    findings = diagnose(record) if len(record.loss) > 1 else []
    if shape == "falls" and any(finding.cause == "flipped_sign" for finding in findings):
        shape = "goes up"  # the error does, while its negative is minimised
    return Overfit(shape == "falls", shape, record.loss, CAUSES[shape], findings)


@dataclass(frozen=True)
class _First:
    dataset: Dataset
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[index]
