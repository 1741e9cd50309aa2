r"""Tables of runs: what a recipe's validation score owes to the amount of data, to the batch size, to each addition.

    learning_curve("resnet", [100, 300, 1000])             more data is the best and dearest remedy for overfitting
    batch_sizes("resnet", [16, 64, 256])                   the rate scaled along, lr(B) = lr_0 B / B_0
    additions("resnet", [{"training.augment": {...}}])     one at a time, each on top of those before it

Larger batches estimate the gradient better, which beyond the noise scale no longer pays: with the gradient G and the
covariance S of one sample's gradient,

    E|g_B|^2 = |G|^2 + tr(S) / B,     B_noise = tr(S) / |G|^2     from the norms at two batch sizes

Goyal et al.: Accurate, Large Minibatch SGD, 2017, arXiv:1706.02677. Keskar et al.: On Large-Batch Training, 2016,
arXiv:1609.04836. McCandlish et al.: An Empirical Model of Large-Batch Training, 2018, arXiv:1812.06162.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from oculi import catalogue
from oculi.data.datasets import Dataset, training_batches
from oculi.learn.evaluation import evaluate
from oculi.learn.training import build, open_splits, train, training_options
from oculi.system import System


@dataclass(frozen=True)
class Row:
    """One run: what it was given, its score on the data it learned from and on the validation split."""

    name: str
    value: float
    train: float
    validation: float

    @property
    def gap(self) -> float:
        """How much better it does on what it has seen: overfitting."""
        return self.train - self.validation


def learning_curve(
    name: str, sizes: Sequence[int], overrides: Mapping[str, Any] | None = None, metric: str = "accuracy"
) -> list[Row]:
    """A run for each size of the training split, smaller ones being part of the larger ones."""
    recipe = catalogue.recipe(name).with_overrides(overrides or {})
    whole = open_splits(recipe, build(recipe))
    rows = []
    for size in sizes:
        if not 1 <= size <= len(whole.train):
            raise ValueError(f"sizes: expected 1 to {len(whole.train)}, the training split, got {size}")
        part = replace(whole, train=[whole.train[k] for k in range(size)])
        run = train(recipe, splits=part, progress=False)
        rows.append(_row(str(size), size, run.system, run.splits, metric))
    return rows


def more_data_would_help(rows: Sequence[Row], least: float = 0.01) -> bool:
    """Whether a learning curve still has a gap, and its validation score was still rising at the last step."""
    if len(rows) < 2:
        raise ValueError(f"rows: expected at least two sizes, got {len(rows)}")
    return rows[-1].gap > least and rows[-1].validation - rows[-2].validation > least / 2


def batch_sizes(
    name: str, sizes: Sequence[int], overrides: Mapping[str, Any] | None = None, metric: str = "accuracy"
) -> list[Row]:
    """A run for each batch size over the same number of samples, the learning rate scaled along."""
    recipe = catalogue.recipe(name).with_overrides(overrides or {})
    options, rows = training_options(recipe), []
    for size in sizes:
        changed = {
            "training.batch_size": size,
            "training.lr": scaled_lr(options.lr, options.batch_size, size),
            "training.steps": max(1, options.steps * options.batch_size // size),
            "training.warmup": options.warmup * options.batch_size // size,
        }
        run = train(recipe, overrides=changed, progress=False)
        rows.append(_row(str(size), size, run.system, run.splits, metric))
    return rows


def additions(
    name: str,
    steps: Sequence[Mapping[str, Any]],
    overrides: Mapping[str, Any] | None = None,
    metric: str = "accuracy",
) -> list[Row]:
    """The recipe, then with one more set of overrides each time; a row's value is what the addition gained."""
    rows: list[Row] = []
    given = dict(overrides or {})
    for step in ({}, *steps):
        given |= step
        run = train(name, overrides=given, progress=False)
        row = _row(", ".join(step) or "as it is", 0.0, run.system, run.splits, metric)
        rows.append(replace(row, value=row.validation - rows[-1].validation) if rows else row)
    return rows


def _row(name: str, value: float, system: System, splits: Any, metric: str) -> Row:
    return Row(name, value, *(evaluate(system, splits, split=part)[metric] for part in ("train", "validation")))


def scaled_lr(lr: float, batch_size: int, wanted: int) -> float:
    """The learning rate for another batch size, in proportion.

    >>> scaled_lr(0.1, 256, 1024)
    0.4
    """
    if batch_size < 1 or wanted < 1:
        raise ValueError(f"batch_size, wanted: expected 1 or more, got {batch_size} and {wanted}")
    return lr * wanted / batch_size


def gradient_noise_scale(system: System, dataset: Dataset, small: int = 4, large: int = 64, draws: int = 20) -> float:
    """The batch size about which larger ones stop to pay, from the mean squared norms of gradients at two sizes."""
    if not 1 <= small < large <= len(dataset):
        raise ValueError(f"small, large: expected 1 <= small < large <= {len(dataset)}, got {small} and {large}")
    norms = []
    for size in (small, large):
        squares = [gradient(system, b).square().sum() for b in training_batches(dataset, size, draws, seed=0)]
        norms.append(float(torch.stack(squares).mean()))
    noise = (norms[0] - norms[1]) / (1 / small - 1 / large)
    signal = (large * norms[1] - small * norms[0]) / (large - small)
    return noise / max(signal, 1e-30)


def gradient(system: System, batch: Any) -> Float[Tensor, " parameters"]:
    """The gradient of the loss on a batch, all parameters in a row; those of the system are left as they were."""
    parameters = [p for p in system.parameters() if p.requires_grad]
    total = torch.stack(list(system.loss(batch.to(system.device)).values())).sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)])
