r"""How a system learns: the options of a recipe's `training:`, and torch's optimisers and schedules made of them.

Layers are grouped in the order in which a system defines them: each block of its lists (`stages.0`, `stages.1`, ...) and
each module beside them (`stem`, `head`), so that early layers can stand still or learn at a smaller rate,

    lr_g = lr d^(G - 1 - g)     g = 0 for the earliest of G groups, d = `lr_decay`  (Howard and Ruder 2018, 1801.06146)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import lr_scheduler as torchs

from oculi.learn.muon import MuonAdamW
from oculi.system import Phase, System


@dataclass(frozen=True)
class Training:
    """How a system learns; each field can be set in a recipe (`training:`) and on the command line (`--training.lr`).

    steps: optimiser steps; optimizer: torch's, or `muon`, which steps matrices by Muon and the rest by AdamW at a tenth
    of the rate (`learn/muon.py`); warmup: steps of linear warm-up; schedule: what follows it (step: `gamma` times as much
    every `period` steps, multistep: at each of `milestones`, restarts: a cosine over each `period`, linear: down to
    0, plateau: `gamma` times as much after more than `patience` validations without a lower loss); clip: largest
    gradient norm, and clip_value: largest derivative (0 = none); ema: decay of the weights' moving average, or swa:
    the last share of the steps whose weights are averaged, which is what gets saved (0 = none); weight_decay spares
    biases and norms; lr_decay: factor of the rate from each group of layers to the one before it; freeze: groups that
    stand still, from the first one (-1: all but the last); unfreeze: steps after which one more of them learns, the
    last first (0 = never); validate: steps between looks at the validation loss; stop: looks without improvement
    after which training ends, the best weights kept (0 = never); augment: options of `oculi.data.augment.Augment`;
    policy: of `oculi.data.policies`, with its name; mix: of `oculi.data.mixing.Mixing`; compose: of
    `oculi.data.mosaic.Composing`; grow: share of the side that pictures have at first, which grows until they are whole
    after two thirds of the steps (0 = whole from the start); vary: least share of the side that the pictures of a batch
    have, drawn for each batch in eighths (0 = always whole);
    precision: Lightning's name; init_from: what to start from, a recipe, trained with `init_with`, overrides of it, or
    weights as `oculi.load` takes them, a folder, a file or a published name, whose architecture then counts.
    """

    steps: int = 1000
    batch_size: int = 64
    optimizer: Literal["sgd", "adam", "adamw", "muon", "rmsprop", "adagrad", "adadelta"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.9
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "linear", "step", "multistep", "restarts", "plateau"] = "constant"
    warmup: int = 0
    period: int = 0
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1
    patience: int = 2
    clip: float = 0.0
    clip_value: float = 0.0
    ema: float = 0.0
    swa: float = 0.0
    lr_decay: float = 1.0
    freeze: int = 0
    unfreeze: int = 0
    validate: int = 0
    stop: int = 0
    augment: dict[str, float] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)
    mix: dict[str, float] = field(default_factory=dict)
    compose: dict[str, float] = field(default_factory=dict)
    grow: float = 0.0
    vary: float = 0.0
    precision: str = "32-true"
    init_from: str = ""
    init_with: dict[str, Any] = field(default_factory=dict)
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.schedule in ("step", "restarts") and self.period < 1:
            raise ValueError(f"period: the schedule {self.schedule} needs a number of steps, got {self.period}")
        if self.schedule == "plateau" and (self.warmup or not self.validate):
            raise ValueError(
                f"validate, warmup: plateau wants to validate, and no warm-up; got {self.validate}, {self.warmup}"
            )
        if self.stop and not self.validate:
            raise ValueError("validate: stopping early wants to validate every so many steps, got 0")
        if self.ema and self.swa:
            raise ValueError(f"ema, swa: expected one way of averaging, got {self.ema} and {self.swa}")
        for name in ("swa", "grow", "vary"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)}")


def optimizer_for(
    phase: Phase, training: Training, rates: dict[nn.Parameter, float] | None = None
) -> torch.optim.Optimizer:
    """torch's own optimiser over the phase's parameters; `rates` are factors of the rate of some of them."""
    if not phase.parameters:
        raise ValueError(f"phase {phase.name}: it has no parameters to train")
    groups = _groups(phase.parameters, training, rates or {})
    first, second = training.betas
    fused = not training.precision.endswith("mixed")  # Lightning clips no gradients that a fused step would unscale
    match training.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, lr=training.lr, momentum=training.momentum)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=training.lr)
        case "adagrad":
            return torch.optim.Adagrad(groups, lr=training.lr)
        case "adadelta":
            return torch.optim.Adadelta(groups, lr=training.lr)
        case "adamw":
            return torch.optim.AdamW(groups, lr=training.lr, betas=(first, second), weight_decay=0.0, fused=fused)
        case "muon":
            return MuonAdamW(groups, training.lr, (first, second), fused)
        case _:
            return torch.optim.Adam(groups, lr=training.lr, betas=(first, second), fused=fused)


def _groups(
    parameters: list[nn.Parameter], training: Training, rates: dict[nn.Parameter, float]
) -> list[dict[str, Any]]:
    """Parameters of equal rate and weight decay together, weight decay only on what is no vector."""
    groups: list[dict[str, Any]] = []
    for rate in sorted({rates.get(p, 1.0) for p in parameters}):
        own = {} if rate == 1 else {"lr": training.lr * rate}
        alike = [p for p in parameters if rates.get(p, 1.0) == rate]
        if training.weight_decay:
            groups.append({"params": [p for p in alike if p.ndim > 1], "weight_decay": training.weight_decay, **own})
            alike = [p for p in alike if p.ndim <= 1]
        groups.append({"params": alike, **own})
    return groups


def lr_factor(step: int, training: Training, steps: int) -> float:
    """Linear warm-up, min(1, (t + 1) / T_w), then constant or (1 + cos(pi t / T)) / 2.

    >>> [lr_factor(step, Training(warmup=2, schedule="cosine"), 6) for step in (0, 1, 2, 4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if step < training.warmup:
        return (step + 1) / training.warmup
    if training.schedule != "cosine":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - training.warmup) / max(1, steps - training.warmup)))


def side_share(step: int, training: Training) -> float:
    """How much of their side pictures have at a step, in eighths.

    >>> [side_share(step, Training(steps=90, grow=0.5)) for step in (0, 30, 59, 60, 89)]
    [0.5, 0.75, 0.875, 1.0, 1.0]
    """
    grown = min(1.0, step / (training.steps * 2 / 3)) if training.grow else 1.0
    return int(8 * (training.grow + (1 - training.grow) * grown)) / 8 if grown < 1 else 1.0


def schedule_for(optimizer: torch.optim.Optimizer, training: Training, steps: int) -> Any:
    """torch's schedule of the learning rate over so many steps, after the warm-up."""
    after, gamma = max(1, steps - training.warmup), training.gamma
    warm = torchs.LambdaLR(optimizer, lambda step: lr_factor(step, training, steps))
    later: Any
    match training.schedule:
        case "step":
            later = torchs.StepLR(optimizer, training.period, gamma)
        case "multistep":
            later = torchs.MultiStepLR(optimizer, [m - training.warmup for m in training.milestones], gamma)
        case "linear":
            later = torchs.LinearLR(optimizer, 1.0, 0.0, after)
        case "restarts":
            later = torchs.CosineAnnealingWarmRestarts(optimizer, training.period)
        case "plateau":
            return torchs.ReduceLROnPlateau(optimizer, factor=gamma, patience=training.patience)
        case _:
            return warm
    return torchs.SequentialLR(optimizer, [warm, later], [training.warmup]) if training.warmup else later


@dataclass
class LayerGroup:
    """Layers that are frozen and learn together."""

    name: str
    module: nn.Module
    parameters: list[nn.Parameter]


def layer_groups(system: System) -> list[LayerGroup]:
    """The system's layers from the earliest to the latest; what stands in no module is part of the earliest."""
    found = [LayerGroup(name, module, list(module.parameters())) for name, module in _blocks(system, "")]
    found = [group for group in found if group.parameters] or [LayerGroup("all", system, [])]
    inside = {p for group in found for p in group.parameters}
    found[0].parameters += [p for p in system.parameters() if p not in inside]
    return found


def _blocks(module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """Children, those of lists (and of a network that the system wraps) one by one."""
    children = [(f"{prefix}{name}", child) for name, child in module.named_children()]
    found = []
    for name, child in children:
        opened = isinstance(child, nn.ModuleList | System)
        found += _blocks(child, f"{name}.") if opened else [(name, child)]
    return found


def layer_rates(system: System, decay: float) -> dict[nn.Parameter, float]:
    """Factors of the learning rate: 1 for the last group, `decay` times as much for each one before it."""
    groups = layer_groups(system)
    return {p: decay ** (len(groups) - 1 - k) for k, group in enumerate(groups) for p in group.parameters}


class Freezing:
    """Which of a system's layers stand still at which step: no gradient, and batch norm and dropout as in use."""

    def __init__(self, system: System, training: Training):
        groups = layer_groups(system)
        self.groups = groups[: training.freeze]
        if len(self.groups) == len(groups):
            raise ValueError(f"freeze: expected fewer than the {len(groups)} groups of layers, got {training.freeze}")
        self.every, self.still = training.unfreeze, 0
        self.trainable = [[p.requires_grad for p in group.parameters] for group in self.groups]

    def frozen(self, step: int) -> int:
        """How many of the earliest groups stand still at this step."""
        return max(0, len(self.groups) - step // self.every) if self.every else len(self.groups)

    def __call__(self, step: int) -> None:
        """Freeze and thaw for the step to come."""
        still = self.frozen(step)
        for index, (group, trainable) in enumerate(zip(self.groups, self.trainable, strict=True)):
            for parameter, learns in zip(group.parameters, trainable, strict=True):
                parameter.requires_grad_(learns and index >= still)
            if index < still:
                group.module.eval()
            elif index < self.still:
                group.module.train()
        self.still = still

    def end(self) -> None:
        """Everything may learn again."""
        for group, trainable in zip(self.groups, self.trainable, strict=True):
            for parameter, learns in zip(group.parameters, trainable, strict=True):
                parameter.requires_grad_(learns)
