r"""What the training doctor writes down during a run, and the statistics that it reads from it.

    shape of a curve       falls, goes up, explodes, oscillates, plateaus
    gradient flow          root mean square of the gradient of each weight matrix; the first layer's over the largest
    update to weight       |w_{t+1} - w_t| / |w_t| per matrix, about 1e-3 in a healthy run
    label noise            share of samples that the network is surer of as another class than it is of that class's
                           own samples on average (confident learning): p_j >= t_j, t_j = mean of p_j over label j

Northcutt, Jiang, Chuang: Confident Learning, 2019, arXiv:1911.00068.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oculi.system import replacing

Shape = Literal["falls", "goes up", "explodes", "oscillates", "plateaus"]
FILE = "doctor.json"


@dataclass
class Probe:
    """How the network answers the same samples at one step: part `train` or `validation`.

    changed: share of answers that differ from the probe before, which a settled run brings to about zero.
    """

    step: int
    part: str
    accuracy: float
    log_loss: float
    noise: float
    changed: float


@dataclass
class Record:
    """A run's statistics. Lists over steps; `gradient`, `weight` and `update` per weight matrix at the steps `read`."""

    planned: int = 0
    phases: int = 1
    classes: int = 0  # 0: no classifier
    loss: list[float] = field(default_factory=list)
    wait: list[float] = field(default_factory=list)  # seconds for the batch
    work: list[float] = field(default_factory=list)  # seconds for the step
    read: list[int] = field(default_factory=list)
    gradient: dict[str, list[float]] = field(default_factory=dict)
    weight: dict[str, list[float]] = field(default_factory=dict)
    update: dict[str, list[float]] = field(default_factory=dict)
    frozen: float = 0.0  # share of parameters that do not learn
    contrast: float | None = None  # how different the pictures of a batch are, of their largest value
    dead: dict[str, float] = field(default_factory=dict)  # share of dead units after each layer
    probes: list[Probe] = field(default_factory=list)
    diverged: int | None = None  # step at which the loss was no number

    def save(self, folder: Path) -> None:
        """Write `doctor.json`; what is no number becomes null."""
        plain = _finite(asdict(self))
        with replacing(folder / FILE) as temporary:
            temporary.write_text(json.dumps(plain, allow_nan=False) + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: str | Path) -> Record:
        """The record of a run's folder, or its curve alone where the doctor did not watch. ValueError: neither."""
        path = Path(folder) / FILE
        if not path.is_file():
            return _from_metrics(Path(folder) / "metrics.csv")
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            known = {f.name for f in fields(Record)}
            optional = {"contrast", "diverged"}  # null is None there, elsewhere what was no number
            numbers = {key: _numbers(value) for key, value in plain.items() if key in known - optional - {"probes"}}
            record = Record(**numbers, **{key: plain[key] for key in optional})
            record.probes = [Probe(**_numbers(probe)) for probe in plain["probes"]]
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a doctor's record ({type(error).__name__}: {error})") from None
        return record

    @property
    def shape(self) -> Shape:
        """Of the training loss."""
        return curve_shape(self.loss)

    @property
    def flow(self) -> float:
        """The first layer's gradient over the largest of all, per weight, the median over the run; 1 for one layer."""
        if len(self.gradient) < 2:
            return 1.0
        ratios = []
        for values in zip(*self.gradient.values()):
            if math.isfinite(max(values)) and max(values) > 0:
                ratios.append(values[0] / max(values))
        return median(ratios) if ratios else 1.0

    def moves(self, first: int | None = None) -> float:
        """The median update-to-weight ratio over layers and steps, or over the first few readings."""
        ratios = [
            u / w
            for name, updates in self.update.items()
            for u, w in list(zip(updates, self.weight[name]))[:first]
            if w > 0 and math.isfinite(u)
        ]
        return median(ratios) if ratios else math.nan

    def last(self, part: str) -> Probe | None:
        """The last probe of that part."""
        return next((probe for probe in reversed(self.probes) if probe.part == part), None)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return math.nan if value is None else value


def _from_metrics(path: Path) -> Record:
    """The curve that every run writes."""
    if not path.is_file():
        raise ValueError(f"{path.parent}: no run, it holds neither {FILE} nor metrics.csv")
    rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    loss = [(int(row[0]), float(row[2])) for row in rows if len(row) == 3 and row[1] == "train/loss"]
    return Record(planned=loss[-1][0] if loss else 0, loss=[value for _, value in loss])


def curve_shape(loss: Sequence[float], target: float | None = None) -> Shape:
    """What a training loss does. `target`: what it has to fall below; half of where it began where None.

    Explodes: no number, or ten times its beginning. Goes up: rises steadily and ends a fifth above its beginning.
    Oscillates: neighbouring steps of the second half differ by a quarter of its level and more.

    >>> [curve_shape(loss) for loss in ([2, 1, 0.5, 0.1], [2, 3, 4, 5], [2, 9, 99, 1e9], [2, 1.99, 2, 2.01])]
    ['falls', 'goes up', 'explodes', 'plateaus']
    """
    if len(loss) < 2:
        raise ValueError(f"loss: expected at least two steps, got {len(loss)}")
    if not all(math.isfinite(value) for value in loss):
        return "explodes"
    few = max(1, len(loss) // 20)
    values = torch.tensor(loss, dtype=torch.float64)
    begin, half = float(values[:few].mean()), values[len(values) // 2 :]
    end, scale = float(values[-max(1, len(loss) // 5) :].mean()), max(abs(begin), 1e-12)
    if end < (begin - scale / 2 if target is None else target):
        return "falls"
    if end > begin + 9 * scale or float(half.max()) > begin + 99 * scale:
        return "explodes"
    order = torch.arange(len(values), dtype=torch.float64)
    ranks = values.argsort().argsort().double()
    rising = float(torch.corrcoef(torch.stack([order, ranks]))[0, 1]) if float(values.std()) > 0 else 0.0
    if end > begin + scale / 5 and rising > 0.6:
        return "goes up"
    swing = float(half.diff().abs().mean()) if len(half) > 1 else 0.0
    return "oscillates" if swing > 0.25 * float(half.abs().mean()) else "plateaus"


def label_noise(probabilities: Float[Tensor, "n classes"], label: Int[Tensor, " n"]) -> float:
    """The estimated share of wrong labels, by confident learning. Needs a network that is right more often than not."""
    classes = probabilities.shape[1]
    given = torch.zeros(len(label), classes).scatter_(1, label[:, None], 1.0)
    count = given.sum(0)
    level = torch.where(count > 0, (probabilities * given).sum(0) / count.clamp_min(1), math.inf)
    sure = torch.where(probabilities >= level, probabilities, -1.0)
    counted = sure.amax(1) >= 0
    wrong = counted & (sure.argmax(1) != label)
    return float(wrong.sum() / counted.sum().clamp_min(1))
