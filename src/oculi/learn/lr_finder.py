r"""Learning-rate finder: raise the rate exponentially over some hundred steps and take it where the loss falls fastest.

    lr_i = lr_min (lr_max / lr_min)^(i / (n - 1))
    s_i  = moving average of the loss, its bias corrected
    lr   = argmin over i of ds / d log lr,  before the lowest s

The run stops where the loss is four times its lowest. A copy of the system is trained; yours stays as it is.

Smith: Cyclical Learning Rates for Training Neural Networks, 2015, arXiv:1506.01186.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from oculi.data.datasets import Splits
from oculi.learn.learner import Diverged, Learner, Training, fit
from oculi.system import System
from oculi.types import Batch, Losses


@dataclass(frozen=True)
class RateSearch:
    """The rates that were tried, the loss before each step, and the proposal."""

    rates: list[float]
    loss: list[float]
    proposal: float


def lr_finder(
    system: System,
    splits: Splits,
    training: Training | None = None,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 200,
) -> RateSearch:
    """Propose a rate for `training`'s optimiser and batch size. Raises ValueError where the loss never falls."""
    if not 0 < lowest < highest:
        raise ValueError(f"lowest: expected a positive rate below highest {highest}, got {lowest}")
    if steps < 20:
        raise ValueError(f"steps: expected at least 20, got {steps}")
    options = replace(training or Training(), steps=steps, lr=lowest, schedule="constant", warmup=0, ema=0.0)
    ramp = _Ramp([lowest * (highest / lowest) ** (i / (steps - 1)) for i in range(steps)])
    with suppress(Diverged):
        fit(copy.deepcopy(system), options, splits, progress=False, callbacks=[ramp])
    rates = ramp.rates[: len(ramp.loss)]
    return RateSearch(rates, ramp.loss, propose_rate(rates, ramp.loss))


def propose_rate(rates: Sequence[float], loss: Sequence[float], memory: float = 0.9) -> float:
    """The rate of the steepest descent of the smoothed loss, up to its lowest point.

    >>> rates = [10 ** (i / 10 - 6) for i in range(60)]
    >>> found = propose_rate(rates, [1 / (1 + (rate / 1e-3) ** 2) for rate in rates], memory=0.0)
    >>> round(math.log10(found), 1)  # steepest where it has fallen by half
    -3.0
    """
    if len(rates) != len(loss):
        raise ValueError(f"loss: expected one for each of {len(rates)} rates, got {len(loss)}")
    smooth, average = [], 0.0
    for step, value in enumerate(loss, 1):
        if not math.isfinite(value):
            break
        average = memory * average + (1 - memory) * value
        smooth.append(average / (1 - memory**step))
    if len(smooth) < 3:
        raise ValueError(f"loss: expected at least three numbers, got {len(smooth)}")
    values = torch.tensor(smooth, dtype=torch.float64)
    lowest = max(2, int(values.argmin()) + 1)
    logs = torch.tensor(rates[: len(smooth)], dtype=torch.float64).log()
    slope = torch.gradient(values, spacing=(logs,))[0][:lowest]
    if float(slope.min()) >= 0:
        raise ValueError("loss: it never falls, at no rate")
    return float(rates[int(slope.argmin())])


class _Ramp(Callback):
    """Sets the rate before each step and stops where the loss explodes."""

    def __init__(self, rates: list[float]):
        self.rates, self.loss = rates, list[float]()

    def on_fit_start(self, trainer: pl.Trainer, learner: pl.LightningModule) -> None:
        assert isinstance(learner, Learner)
        for phase in learner.phases:
            phase.loss = self._noting(phase.loss)

    def on_train_batch_start(self, trainer: pl.Trainer, learner: pl.LightningModule, *_: Any) -> None:
        rate = self.rates[min(len(self.loss), len(self.rates) - 1)]
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        lowest = min(self.loss)
        if self.loss[-1] > lowest + 3 * max(abs(lowest), abs(self.loss[0])):
            trainer.should_stop = True

    def _noting(self, loss: Callable[[Batch], Losses]) -> Callable[[Batch], Losses]:
        def noted(batch: Batch) -> Losses:
            losses = loss(batch)
            self.loss.append(sum(float(value.detach()) for value in losses.values()))
            return losses

        return noted
