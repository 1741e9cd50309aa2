r"""The training doctor: watches a run cheaply and names what is wrong with it.

    doctor = TrainingDoctor()
    fit(system, training, splits, folder, callbacks=[doctor])       writes folder/doctor.json
    for finding in diagnose(doctor.record):                         or diagnose(folder)
        print(finding)

Written down: the loss, the waiting and the working time of every step; at some steps the norms of each weight matrix,
its gradient and its update; the answers to the same few hundred training and validation pictures as training goes on;
dead units at the end. Random numbers, order and weights of the run stay what they are without it.

    loss goes up      a flipped sign
    explodes          numerics or too high a rate
    oscillates        the rate, shuffled labels, bad augmentation
    plateaus          too low a rate, regularisation, the loss or the data pipeline

What each statistic must be for each cause stands in diagnosis.py. Oracle: planted faults, see `experiment`.

Karpathy: A Recipe for Training Neural Networks, 2019; Tobin: Troubleshooting Deep Neural Networks, 2019; Ng: Machine
Learning Yearning, 2018.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from oculi.backbones.lenet import LeNet
from oculi.data.datasets import Dataset, Splits, channel_statistics
from oculi.data.sources import open_data
from oculi.learn.dead_units import dead_shares
from oculi.learn.diagnosis import Finding, diagnose
from oculi.learn.learner import Diverged, Learner, Training, fit, seed_everything
from oculi.learn.training_record import Probe, Record, label_noise
from oculi.predictions import Classes
from oculi.system import System, predict
from oculi.types import Batch, Losses, Sample


class TrainingDoctor(Callback):
    """Writes `record` while a Learner trains. samples: of training and validation that are asked again and again;
    probes: how often; readings: how often the layers are looked at, besides the first five steps.
    """

    def __init__(self, samples: int = 256, probes: int = 8, readings: int = 30):
        for name, value in (("samples", samples), ("probes", probes), ("readings", readings)):
            if value < 1:
                raise ValueError(f"{name}: expected a positive number, got {value}")
        self.samples, self.probes, self.readings = samples, probes, readings
        self.record = Record()

    def diagnose(self) -> list[Finding]:
        """What is wrong, the root first; nothing where the run is healthy."""
        return diagnose(self.record)

    # Lightning's hooks ------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: pl.Trainer, learner: pl.LightningModule) -> None:
        assert isinstance(learner, Learner)
        system, splits = learner.system, learner.splits
        parameters = list(system.parameters())
        total = sum(p.numel() for p in parameters)
        self.record = record = Record(planned=learner.training_options.steps, phases=len(learner.phases))
        record.frozen = sum(p.numel() for p in parameters if not p.requires_grad) / max(1, total)
        self._matrices = {n: p for n, p in system.named_parameters() if p.ndim > 1 and p.requires_grad}
        self._before: dict[str, Tensor] = {}
        self._answers: dict[str, Tensor] = {}
        self._asked: dict[str, Batch] = {}
        if splits.environment is None:
            self._asked = {part: _some(getattr(splits, part), self.samples) for part in ("train", "validation")}
            if self._asked["train"].image is not None:
                record.contrast = _contrast(self._asked["train"].image)
            if not (system.answer is Classes and all(batch.label is not None for batch in self._asked.values())):
                self._asked = {}
        self._wrapped = [(phase, phase.loss) for phase in learner.phases]
        for phase, loss in self._wrapped:
            phase.loss = self._writing(loss)
        self._stamp = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, learner: pl.LightningModule, *_: Any) -> None:
        now = time.perf_counter()
        self.record.wait.append(now - self._stamp)
        self._stamp = now

    def on_before_optimizer_step(self, trainer: pl.Trainer, learner: pl.LightningModule, *_: Any) -> None:
        assert isinstance(learner, Learner)
        step, every = learner.steps_done, max(1, self.record.planned // self.readings)
        if step >= 5 and step % every:
            return
        self.record.read.append(step)
        for name, parameter in self._matrices.items():
            gradient = parameter.grad
            size = math.sqrt(parameter.numel())
            norm = 0.0 if gradient is None else float(gradient.detach().norm()) / size
            self.record.gradient.setdefault(name, []).append(norm)
            self._before[name] = parameter.detach().clone()

    def on_train_batch_end(self, trainer: pl.Trainer, learner: pl.LightningModule, *_: Any) -> None:
        assert isinstance(learner, Learner)
        for name, before in self._before.items():
            now = self._matrices[name].detach()
            self.record.weight.setdefault(name, []).append(float(before.norm()))
            self.record.update.setdefault(name, []).append(float((now - before).norm()))
        self._before = {}
        self.record.work.append(time.perf_counter() - self._stamp)
        if self._asked and learner.steps_done % max(1, self.record.planned // self.probes) == 0:
            self._ask(learner)
        self._stamp = time.perf_counter()

    def on_fit_end(self, trainer: pl.Trainer, learner: pl.LightningModule) -> None:
        assert isinstance(learner, Learner)
        images = next((batch.image for batch in self._asked.values()), None)
        if images is not None and all(bool(p.isfinite().all()) for p in learner.system.parameters()):
            try:
                self.record.dead = dead_shares(learner.system, images.to(learner.system.device))
            except ValueError:  # no activation that can die
                self.record.dead = {}
        self._finish(trainer, learner)

    def on_exception(self, trainer: pl.Trainer, learner: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(learner, Learner) and isinstance(exception, Diverged):
            self.record.diverged = learner.steps_done
        self._finish(trainer, learner)

    # what is written down ---------------------------------------------------------------------------------------------

    def _finish(self, trainer: pl.Trainer, learner: pl.LightningModule) -> None:
        for phase, loss in self._wrapped:
            phase.loss = loss
        self._before, self._matrices = {}, {}
        metrics = getattr(learner, "metrics_file", None)
        if metrics is not None and trainer.is_global_zero:
            self.record.save(metrics.parent)

    def _writing(self, loss: Callable[[Batch], Losses]) -> Callable[[Batch], Losses]:
        def written(batch: Batch) -> Losses:
            losses = loss(batch)
            self.record.loss.append(sum(float(value.detach()) for value in losses.values()))
            return losses

        return written

    def _ask(self, learner: Learner) -> None:
        for part, batch in self._asked.items():
            answers = predict(learner.system, batch)
            rows = torch.stack([a.probabilities for a in answers if isinstance(a, Classes)]).cpu().float()
            self.record.classes = rows.shape[1]
            label, chosen = batch.label, rows.argmax(1)
            assert label is not None
            known = label >= 0
            before = self._answers.get(part, chosen)
            self._answers[part] = chosen
            rows, label = rows[known], label[known]
            if len(label):
                likely = rows.gather(1, label[:, None]).clamp_min(1e-12)
                self.record.probes.append(
                    Probe(
                        learner.steps_done, part, float((rows.argmax(1) == label).float().mean()),
                        float(-likely.log().mean()), label_noise(rows, label), float((chosen != before).float().mean()),
                    )
                )  # fmt: skip


def _some(dataset: Dataset, count: int) -> Batch:
    """Evenly spaced samples."""
    stride = max(1, len(dataset) // count)
    return Batch.of([dataset[i] for i in range(0, len(dataset), stride)][:count])


def _contrast(image: Tensor) -> float:
    """How much a pixel differs between pictures, the root mean square over pixels, over the largest value."""
    largest = float(image.abs().max())
    return 0.0 if largest == 0 or len(image) < 2 else float(image.std(0).square().mean().sqrt()) / largest


def watch(system: System, training: Training, splits: Splits) -> Record:
    """Train under the doctor's eye; a run that diverges has its record too."""
    doctor = TrainingDoctor()
    with suppress(Diverged):
        fit(system, training, splits, progress=False, callbacks=[doctor])
    return doctor.record


# the experiment: a healthy run, broken in ten ways -------------------------------------------------------------------


@dataclass
class Case:
    """What a run is made of, for a fault to change."""

    system: System
    training: Training
    splits: Splits


@dataclass
class Changed:
    """A data set with something done to each sample."""

    dataset: Dataset
    change: Callable[[Sample, int], Sample]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return self.change(self.dataset[index], index)


def healthy(seed: int, steps: int = 150, hidden: list[int] | None = None) -> Case:
    """A small LeNet on the digits."""
    seed_everything(seed)
    system = LeNet(10, [8, 16], hidden or [32], in_channels=1, image_size=16)
    splits = open_data("digits", seed=seed).prepared(system.contract)
    system.set_statistics(*channel_statistics(splits.train))
    return Case(system, Training(steps=steps, batch_size=64, lr=2e-3, seed=seed), splits)


def _relabelled(case: Case, share: float, parts: tuple[str, ...], seed: int) -> Case:
    """Another class, at random, for a share of the samples."""
    generator = torch.Generator().manual_seed(seed)

    def wrong(dataset: Dataset) -> Changed:
        turns = torch.randint(1, 10, (len(dataset),), generator=generator)
        turns *= torch.rand(len(dataset), generator=generator) < share
        return Changed(dataset, lambda s, i: replace(s, label=((s.label or 0) + int(turns[i])) % 10))

    changed: dict[str, Any] = {part: wrong(getattr(case.splits, part)) for part in parts}
    return replace(case, splits=replace(case.splits, **changed))


def _flipped_sign(case: Case, seed: int) -> Case:
    def negative(self: System, batch: Batch) -> Losses:
        return {key: -value for key, value in type(self).loss(self, batch).items()}

    object.__setattr__(case.system, "loss", MethodType(negative, case.system))
    return case


def _exploding(case: Case, seed: int) -> Case:
    case = healthy(seed, case.training.steps, [64] * 5)
    for layer in [m for m in case.system.modules() if isinstance(m, nn.Linear)]:
        nn.init.normal_(layer.weight)  # a standard deviation of 1 for any width
    return case


def _vanishing(case: Case, seed: int) -> Case:
    case = healthy(seed, case.training.steps, [32] * 20)
    for layer in [m for m in case.system.modules() if isinstance(m, nn.Linear)][:-1]:
        layer.register_forward_hook(lambda module, inputs, output: output.sigmoid())  # the ReLU after it does nothing
    return case


def _dead(case: Case, seed: int) -> Case:
    first = next(m for m in case.system.modules() if isinstance(m, nn.Conv2d))
    assert first.bias is not None
    with torch.no_grad():
        first.bias[2:] = -100
    return case


def _slow(case: Case, seed: int) -> Case:
    def read(sample: Sample, index: int) -> Sample:
        time.sleep(0.0015)
        return sample

    splits = replace(case.splits, train=Changed(case.splits.train, read))
    return replace(case, training=replace(case.training, steps=case.training.steps // 2), splits=splits)


def _frozen(case: Case, seed: int) -> Case:
    for name, parameter in case.system.named_parameters():
        parameter.requires_grad_(name.endswith("head.bias"))
    return case


FAULTS: dict[str, Callable[[Case, int], Case]] = {
    "flipped_sign": _flipped_sign,
    "high_rate": lambda case, seed: replace(case, training=replace(case.training, lr=1.0)),
    "low_rate": lambda case, seed: replace(case, training=replace(case.training, lr=1e-7)),
    "shuffled_labels": lambda case, seed: _relabelled(case, 1.1, ("train",), seed),
    "label_noise": lambda case, seed: _relabelled(case, 0.4, ("train", "validation"), seed),
    "vanishing_gradient": _vanishing,
    "exploding_gradient": _exploding,
    "dead_units": _dead,
    "loader_stall": _slow,
    "frozen_weights": _frozen,
}


def experiment(seeds: int = 10, trials: int = 1, steps: int = 150, seed: int = 0) -> dict[str, float]:
    """Break a healthy digits run in ten ways, `trials` times each, and let `seeds` healthy ones be.

    named: causes that come first among the findings, of ten; false_alarms: findings on the healthy runs.
    """
    figures: dict[str, float] = {}
    for fault, plant in FAULTS.items():
        right = 0
        for trial in range(seed, seed + trials):
            case = plant(healthy(trial, steps), trial)
            findings = diagnose(watch(case.system, case.training, case.splits))
            right += bool(findings) and findings[0].cause == fault
        figures[f"named_{fault}"] = right / trials
    alarms = 0
    for trial in range(seed, seed + seeds):
        case = healthy(trial, steps)
        alarms += len(diagnose(watch(case.system, case.training, case.splits)))
    return {"named": sum(figures.values()), "false_alarms": float(alarms), **figures}
