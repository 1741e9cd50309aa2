r"""From a run's record to what is wrong with it: each cause has one test, a sentence of evidence, and remedies.

Asked in this order; the first that holds explains why a network does not learn, and what it explains is not asked:

    blank_pictures        all pictures of a batch are alike
    exploding_gradient    the first loss is ten times a guesser's, before any step could do harm
    high_rate             the first updates are as large as the weights, and the loss does not fall
    flipped_sign          training pictures are answered wrongly with growing confidence, or a loss that rises steadily,
                          at a sane rate
    frozen_weights        most parameters do not learn, and the network does not either
    dead_units            half of a layer is silent for every picture
    vanishing_gradient    the first layer's gradient is a millionth of the largest, and the network does not learn
    low_rate              updates of less than 1e-5 of the weights, and the network does not learn
    shuffled_labels       weights move as they should, but the answers stay a guesser's

and of a network that learns: label_noise, overfitting; at any time: loader_stall.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from oculi.learn.training_record import Record

BUGS, SETTINGS, FIT, DATA = (  # poor performance has one of four kinds of cause
    "implementation bug", "hyperparameters", "fit of data and model", "construction of the data set",
)  # fmt: skip

UNDERFITTING_REMEDIES = [
    "a bigger model", "less regularisation", "a model closer to the state of the art", "tuned hyperparameters",
    "added features",
]  # fmt: skip
OVERFITTING_REMEDIES = [
    "more data", "normalisation", "augmentation", "regularisation", "early stopping", "a smaller model",
]  # fmt: skip

CAUSES: dict[str, tuple[str, list[str]]] = {
    "blank_pictures": (BUGS, ["look at what enters the network", "check decoding, scaling and cropping"]),
    "exploding_gradient": (SETTINGS, ["initialise by fan-in", "batch norm", "clip gradients", "a lower rate"]),
    "high_rate": (SETTINGS, ["a rate ten times lower", "warm-up", "the learning-rate finder", "clip gradients"]),
    "flipped_sign": (BUGS, ["check the sign of the loss and of the optimiser's step"]),
    "frozen_weights": (BUGS, ["set requires_grad", "give the parameters to the optimiser"]),
    "dead_units": (SETTINGS, ["a lower rate", "biases at zero", "a leaky activation", "batch norm"]),
    "vanishing_gradient": (
        SETTINGS, ["an activation that does not saturate", "normalised data", "initialisation", "batch norm",
                   "residual connections"],
    ),
    "low_rate": (SETTINGS, ["a rate ten to a thousand times higher", "the learning-rate finder"]),
    "shuffled_labels": (BUGS, ["check that labels stay with their pictures when they are shuffled", "less augmentation"]),
    "label_noise": (DATA, ["look at the samples with the largest loss", "label again", "label smoothing"]),
    "overfitting": (FIT, OVERFITTING_REMEDIES),
    "underfitting": (FIT, UNDERFITTING_REMEDIES),
    "distribution_shift": (DATA, ["training data from where the test data come", "augmentation towards them"]),
    "validation_overfitting": (DATA, ["a new validation set", "fewer choices made on it"]),
    "loader_stall": (SETTINGS, ["more workers", "keep decoded samples in memory", "less work per sample"]),
    "plateaus": (SETTINGS, ["a higher rate", "less regularisation", "check the loss and the data pipeline"]),
    "oscillates": (SETTINGS, ["a lower rate", "check for shuffled labels", "less augmentation"]),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A cause, what speaks for it, which of the four kinds of poor performance it belongs to, and remedies in order."""

    cause: str
    evidence: str
    kind: str = ""
    remedies: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.cause.replace('_', ' ')} ({self.kind}): {self.evidence}. Try: {'; '.join(self.remedies)}"


def found(cause: str, evidence: str) -> Finding:
    """A finding with its kind and remedies."""
    kind, remedies = CAUSES[cause]
    return Finding(cause, evidence, kind, list(remedies))


def diagnose(run: Record | str | Path) -> list[Finding]:
    """What is wrong with a run (its record or its folder), the root first; an empty list: nothing.

    Raises ValueError where the folder holds no run or fewer than two steps.
    """
    record = run if isinstance(run, Record) else Record.load(run)
    if len(record.loss) + (record.diverged is not None) < 2:
        raise ValueError(f"run: expected at least two steps, got {len(record.loss)}")
    root = next((f for f in (test(record) for test in _DOES_NOT_LEARN) if f is not None), None)
    if root is not None:
        findings = [root]
    elif record.probes:
        findings = [f for f in (_label_noise(record) or _overfitting(record),) if f is not None]
    else:
        findings = _by_curve(record)
    stall = _loader_stall(record)
    return findings + ([stall] if stall is not None else [])


def chance(record: Record) -> float:
    """The accuracy that guessing does not exceed: 1 / classes and three standard deviations of a few hundred answers."""
    p = 1 / record.classes
    return p + max(0.1 * (1 - p), 3 * math.sqrt(p * (1 - p) / 256))


def learns(record: Record) -> bool:
    """Whether the network got anywhere: better than guessing on validation or, without classes, a loss that fell."""
    last = record.last("validation")
    if record.diverged is not None:
        return False
    if last is not None:
        return last.accuracy > chance(record)
    return record.phases > 1 or record.shape == "falls"


def _blank_pictures(record: Record) -> Finding | None:
    if record.contrast is None or record.contrast > 1e-3:
        return None
    return found("blank_pictures", f"pictures of a batch differ by {record.contrast:.1g} of their largest value")


def _exploding_gradient(record: Record) -> Finding | None:
    if not record.classes and record.diverged != 0:
        return None
    guess = math.log(max(2, record.classes))
    first = record.loss[0] if record.loss else math.nan
    if math.isfinite(first) and abs(first) <= 10 * guess:
        return None
    return found("exploding_gradient", f"the loss before the first step is {first:.3g}, a guesser's {guess:.2f}")


def _high_rate(record: Record) -> Finding | None:
    moves = record.moves(first=3)
    if not moves > 0.3:
        return None
    if learns(record) and record.shape == "falls":
        return None
    return found("high_rate", f"the first steps change the weights by {moves:.0%} of their size")


def _flipped_sign(record: Record) -> Finding | None:
    asked = [probe for probe in record.probes if probe.part == "train"]
    if asked:
        guess, first, last = math.log(record.classes), asked[0], asked[-1]
        if learns(record) or last.log_loss < max(2 * guess, first.log_loss):
            return None
        return found(
            "flipped_sign", f"surer and surer of wrong answers to what it trains on (log loss {last.log_loss:.3g})"
        )
    if record.phases == 1 and record.diverged is None and record.shape == "goes up":
        return found("flipped_sign", "the loss rises steadily")
    return None


def _frozen_weights(record: Record) -> Finding | None:
    still = not any(u > 0 for updates in record.update.values() for u in updates) and bool(record.read)
    if learns(record) or not (record.frozen > 0.5 or still):
        return None
    return found("frozen_weights", f"{1.0 if still else record.frozen:.0%} of the weights do not change")


def _dead_units(record: Record) -> Finding | None:
    name, share = max(record.dead.items(), key=lambda item: item[1], default=("", 0.0))
    if share < 0.5:
        return None
    return found("dead_units", f"{share:.0%} of the units after {name} are silent for every picture")


def _vanishing_gradient(record: Record) -> Finding | None:
    if learns(record) or record.flow > 1e-6:
        return None
    return found("vanishing_gradient", f"the first layer's gradient is {record.flow:.1g} of the largest")


def _low_rate(record: Record) -> Finding | None:
    moves = record.moves()
    if learns(record) or not moves < 1e-5:
        return None
    return found("low_rate", f"a step changes the weights by {moves:.1g} of their size")


def _shuffled_labels(record: Record) -> Finding | None:
    last = record.last("validation")
    if last is None or learns(record) or not 1e-5 <= record.moves() <= 0.3:
        return None
    return found("shuffled_labels", f"the weights move, but {last.accuracy:.1%} right is a guesser's accuracy")


_DOES_NOT_LEARN = (
    _blank_pictures, _exploding_gradient, _high_rate, _flipped_sign, _frozen_weights, _dead_units, _vanishing_gradient,
    _low_rate, _shuffled_labels,
)  # fmt: skip


def _label_noise(record: Record) -> Finding | None:
    """An estimate that stays while training goes on. Where training samples are learned by heart, validation samples
    are answered too badly to blame their labels."""
    share = 0.0
    for part in ("train",) if _gap(record) >= 0.1 else ("train", "validation"):
        noise = [probe.noise for probe in record.probes if probe.part == part]
        if noise and noise[-1] > 0.6 * noise[len(noise) // 2]:
            share = max(share, noise[-1])
    return found("label_noise", f"about {share:.0%} of the labels contradict the pictures") if share > 0.15 else None


def _overfitting(record: Record) -> Finding | None:
    train, validation = record.last("train"), record.last("validation")
    if train is None or validation is None or _gap(record) < 0.1:
        return None
    return found("overfitting", f"{train.accuracy:.1%} right on training pictures, {validation.accuracy:.1%} on others")


def _gap(record: Record) -> float:
    """Accuracy on training samples above that on validation samples."""
    train, validation = record.last("train"), record.last("validation")
    return 0.0 if train is None or validation is None else train.accuracy - validation.accuracy


def _by_curve(record: Record) -> list[Finding]:
    """Without answers to look at, the curve alone."""
    if record.phases > 1 or record.diverged is not None:
        return [found("high_rate", f"the loss is no number at step {record.diverged}")] if record.diverged else []
    shape = record.shape
    if shape == "explodes":
        return [found("high_rate", "the loss explodes")]
    return [found(shape, f"the loss {shape}")] if shape in ("plateaus", "oscillates") else []


def _loader_stall(record: Record) -> Finding | None:
    if len(record.wait) < 10:
        return None
    wait, work = median(record.wait[1:]), median(record.work)
    if wait < work:
        return None
    return found("loader_stall", f"{wait * 1e3:.1f} ms for a batch, {work * 1e3:.1f} ms for the step")
