r"""Data drift: does p(x) still look like it did? A window of production against a reference, at a stated alarm rate.

Every image becomes a row of numbers: plain statistics (`monitor/features.py`), and, where the model is given, its
embedding and its outputs (`monitor/answers.py`). For each column the two samples' distribution functions are compared,

    KS_f = max |F_reference - F_window|          T = max over f of KS_f · sqrt(n m / (n + m))

and T is held against what chance gives: windows of n images drawn from the reference itself, the rest standing for the
reference. p = (1 + #{T* >= T}) / (1 + resamples), and the alarm is p <= the stated rate. The largest of many statistics
has its own chance distribution, so nothing is lost on the columns' correlation, as it is with Bonferroni's correction.
The rate holds for each window, on average over references; windows that overlap share their errors.

    monitor = DataDrift(false_alarm_rate=0.01, window=100, stride=50)
    monitor.fit(images, **describe(system))                        the reference window, images the model has not seen
    monitor.observe(image)                                         a DriftReport at every stride, else None
    monitor.test(images)                                           a DriftReport of one window

The reference must be data that the model was not trained on: embeddings and confidences of its training images differ
from those of new ones without any drift. p(y|x) is not watched: that needs labels.

KS decides; W1 and D1 of every column stand beside it and say how far it moved. The reference and the settings are saved
with the model (`reference.safetensors`, `drift.json`).

Differs from the paper: the largest statistic in place of Bonferroni, the model's own embedding in place of a second one.
Rabanser, Günnemann, Lipton: Failing Loudly, 2018, arXiv:1810.11953.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from oculi.data import colour
from oculi.learn.charts import bars
from oculi.learn.training import cached
from oculi.monitor.answers import Describe, describe
from oculi.monitor.distances import ks_p_value, ks_statistic, sample_d1, wasserstein
from oculi.monitor.features import STATISTICS, image_statistics
from oculi.system import replacing
from oculi.types import Batch

SETTINGS, REFERENCE = "drift.json", "reference.safetensors"


@dataclass(frozen=True)
class DriftReport:
    """One window's verdict. `features` maps each column to its KS, its p-value alone, W1 in reference deviations and D1."""

    alarm: bool
    p_value: float  # of the largest statistic: the one that decides
    worst: str
    threshold: float  # a column's KS at which it raises the alarm
    features: dict[str, dict[str, float]]
    images: int
    last: int  # images observed up to the end of this window

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the features that moved most first."""
        moved = dict(sorted(self.features.items(), key=lambda item: -item[1]["ks"]))
        verdict = {"alarm": self.alarm, "p_value": self.p_value, "threshold": self.threshold, "images": self.images}
        return {**verdict, "worst": self.worst, "features": moved}

    def plot(self, most: int = 12) -> Image.Image:
        """Bars of the largest KS statistics; those at the threshold (the line) or above are orange and starred."""
        largest = {name: figures["ks"] for name, figures in list(self.to_dict()["features"].items())[:most]}
        verdict = f"KS statistic; {'ALARM' if self.alarm else 'no alarm'}, p = {self.p_value:.2g}"
        return bars(largest, verdict, [n for n, ks in largest.items() if ks >= self.threshold], self.threshold)


class DataDrift:
    """Watches a stream of images for a change of distribution.

    false_alarm_rate: chance of an alarm per window without drift. window: images tested together. stride: new images
    between two tests. resamples: windows drawn from the reference; 1 / (1 + resamples) is the least p-value.
    """

    _recent: Tensor
    _seen: int

    def __init__(
        self,
        false_alarm_rate: float = 0.01,
        window: int = 100,
        stride: int = 50,
        resamples: int = 1000,
        statistics: bool = True,
        seed: int = 0,
    ):
        if not 0 < false_alarm_rate < 1:
            raise ValueError(f"false_alarm_rate: expected more than 0 and less than 1, got {false_alarm_rate}")
        for name, value, least in (("window", window, 2), ("stride", stride, 1)):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        if (1 + resamples) * false_alarm_rate < 1:
            least = round(1 / false_alarm_rate)
            raise ValueError(f"resamples: expected at least {least} for a rate of {false_alarm_rate}, got {resamples}")
        self.false_alarm_rate, self.window, self.stride = false_alarm_rate, window, stride
        self.resamples, self.statistics, self.seed = resamples, statistics, seed
        self.names: list[str] = []
        self.reference: Tensor | None = None
        self._embed: Describe | None = None
        self._answer: Describe | None = None
        self._forget()

    def fit(
        self,
        images: Float[Tensor, "n channels h w"],
        embed: Describe | None = None,
        answer: Describe | None = None,
    ) -> DataDrift:
        """Take `images` as what is normal. embed, answer: images to rows, as `describe` gives them for a system."""
        if len(images) < 2 * self.window:
            raise ValueError(f"images: expected at least two windows, {2 * self.window}, got {len(images)}")
        self._embed, self._answer = embed, answer
        self._forget()
        self.names, self.reference = self._describe(images)
        return self

    def observe(self, images: Float[Tensor, "*n channels h w"]) -> DriftReport | None:
        """Add one image or several. The last report that fell due, an alarm before any other; None when none did."""
        rows = self._rows(images if images.ndim == 4 else images[None])
        due: list[DriftReport] = []
        for row in rows.split(1):
            self._recent = torch.cat([self._recent, row])[-self.window :] if len(self._recent) else row
            self._seen += 1
            if self._seen >= self.window and (self._seen - self.window) % self.stride == 0:
                due.append(self._report(self._recent, self._seen))
        alarms = [report for report in due if report.alarm]
        found = alarms or due
        return found[-1] if found else None

    def test(self, images: Float[Tensor, "n channels h w"]) -> DriftReport:
        """The verdict on one window, of 2 images to half the reference."""
        return self._report(self._rows(images), len(images))

    def reset(self) -> None:
        """Forget the images observed so far; the reference stays."""
        self._recent, self._seen = torch.empty(0), 0

    def save(self, folder: str | Path) -> Path:
        """Write the reference (`reference.safetensors`) and the settings (`drift.json`)."""
        reference = self._fitted()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        keys = ("false_alarm_rate", "window", "stride", "resamples", "statistics", "seed")
        described = {"arguments": {key: getattr(self, key) for key in keys}, "names": self.names}
        with replacing(folder / REFERENCE) as temporary:
            save_file({"reference": reference.contiguous()}, temporary)
        with replacing(folder / SETTINGS) as temporary:
            temporary.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def load(
        cls, folder: str | Path, embed: Describe | None = None, answer: Describe | None = None, **changed: Any
    ) -> DataDrift:
        """The saved monitor, some settings `changed`; functions are not saved, so those that `fit` had are given again."""
        folder = Path(folder)
        try:
            described = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            arguments = dict(described["arguments"])
            names, reference = list(described["names"]), load_file(folder / REFERENCE)["reference"]
            made = cls(**{**arguments, **changed})
        except (OSError, KeyError, TypeError, json.JSONDecodeError, SafetensorError) as error:
            raise ValueError(f"folder: {folder} holds no drift monitor ({type(error).__name__}: {error})") from None
        if reference.ndim != 2 or reference.shape[1] != len(names):
            raise ValueError(f"folder: {folder} has {len(names)} names for shape {tuple(reference.shape)}")
        made.names, made.reference = names, reference
        made._embed, made._answer = embed, answer
        return made

    def _forget(self) -> None:
        self.reset()
        self._chance: dict[int, Tensor] = {}

    def _fitted(self) -> Tensor:
        if self.reference is None:
            raise ValueError("reference: there is none yet; call fit with images of normal use")
        return self.reference

    def _rows(self, images: Tensor) -> Float[Tensor, "n columns"]:
        self._fitted()
        names, rows = self._describe(images)
        if names != self.names:
            expected = f"the reference's {len(self.names)} columns, got {len(names)}"
            raise ValueError(f"images: expected {expected}; give load the functions embed and answer that fit had")
        return rows

    @torch.no_grad()
    def _describe(self, images: Tensor) -> tuple[list[str], Tensor]:
        names: list[str] = []
        columns: list[Tensor] = []
        if self.statistics:
            names += STATISTICS
            columns.append(image_statistics(images))
        for word, function in (("embedding", self._embed), ("output", self._answer)):
            if function is not None:
                found = function(images)
                if found.ndim != 2 or len(found) != len(images):
                    raise ValueError(f"{word}: expected {len(images)} vectors, got shape {tuple(found.shape)}")
                names += [f"{word} {index}" for index in range(found.shape[1])]
                columns.append(found)
        if not columns:
            raise ValueError("statistics: False leaves nothing to compare without embed or answer")
        return names, torch.cat([column.float().cpu() for column in columns], 1)

    def _report(self, rows: Tensor, last: int) -> DriftReport:
        reference = self._fitted()
        n, m = len(rows), len(reference)
        if not 2 <= n <= m // 2:
            raise ValueError(f"images: expected 2 to {m // 2} (half the reference), got {n}")
        if n not in self._chance:
            self._chance[n] = chance_maxima(reference, n, self.resamples, self.seed)
        chance, size = self._chance[n], n * m / (n + m)
        ks = ks_statistic(reference, rows)
        largest = float(ks.max()) * size**0.5
        p_value = (1 + int((chance >= largest - 1e-6).sum())) / (1 + self.resamples)
        allowed = int(self.false_alarm_rate * (1 + self.resamples) + 1e-9)
        threshold = float(chance.sort(descending=True).values[allowed - 1]) / size**0.5
        moved = wasserstein(reference, rows) / reference.double().std(0).clamp_min(1e-12)
        columns = (ks, ks_p_value(ks, n, m), moved, sample_d1(reference, rows))
        found = zip(self.names, *(column.tolist() for column in columns), strict=True)
        features = {name: {"ks": k, "p_value": p, "wasserstein": w, "d1": d} for name, k, p, w, d in found}
        worst = self.names[int(ks.argmax())]
        return DriftReport(p_value <= self.false_alarm_rate, p_value, worst, threshold, features, n, last)


def chance_maxima(
    reference: Float[Tensor, "m columns"], n: int, resamples: int, seed: int = 0
) -> Float[Tensor, " resamples"]:
    """T of `resamples` windows of `n` rows drawn without drift from the reference, the other rows being its reference."""
    m = len(reference)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(resamples, m, generator=generator).argsort(1)[:, :n]
    weight = torch.full((resamples, m), -1 / (m - n)).scatter_(1, chosen, 1 / n)
    order = reference.argsort(0)
    largest = torch.zeros(resamples)
    for column, ranks in zip(reference.T, order.T, strict=True):
        largest = torch.maximum(largest, _largest_gap(weight, ranks, column[ranks]))
    return largest * (n * (m - n) / m) ** 0.5


def _largest_gap(
    weight: Float[Tensor, "resamples m"], ranks: Int[Tensor, " m"], values: Float[Tensor, " m"]
) -> Float[Tensor, " resamples"]:
    """KS of each resample on one column: the walk of the weights in order of value, read where a run of ties ends."""
    ends = torch.cat([values[1:] != values[:-1], torch.ones(1, dtype=torch.bool)])
    return weight[:, ranks].cumsum(1)[:, ends].abs().amax(1)


# the experiment: alarms without drift, alarms with it, and how long they take -----------------------------------------


def experiment(
    simulations: int = 300,
    false_alarm_rate: float = 0.03,
    window: int = 200,
    stride: int = 25,
    resamples: int = 400,
    repeats: int = 10,
    seed: int = 0,
) -> dict[str, float]:
    """False alarms without drift, each simulation with its own reference; p-values and delays under shifts.

    2000 World scenes by their statistics (reference 800), and the 700 digits that the ResNet was not trained on by its
    embedding and outputs alone (`model_*`, reference 400, half the window). `p_*` and `delay_*` are medians over
    `repeats` references at a rate of 0.005.
    """
    from oculi.data.world.dataset import World

    world = World(2000, "classification", size=32, seed=seed)
    run = cached("resnet")
    held = [part[i] for part in (run.splits.validation, run.splits.test) for i in range(len(part))]
    scenes, digits = (Batch.of(samples).image for samples in ([world[i] for i in range(len(world))], held))
    assert scenes is not None
    assert digits is not None
    rates = (false_alarm_rate, 0.005)
    plain = [DataDrift(rate, window, stride, count, seed=seed) for rate, count in zip(rates, (resamples, 1000))]
    figures = _simulated(plain, scenes, 800, {}, simulations, repeats, seed)
    model = [
        DataDrift(m.false_alarm_rate, window // 2, stride, m.resamples, statistics=False, seed=seed) for m in plain
    ]
    found = _simulated(model, digits, 400, describe(run.system), simulations // 3, repeats // 3, seed)
    for word in ("p", "delay"):
        figures[f"largest_{word}"] = max(value for key, value in figures.items() if key.startswith(f"{word}_"))
    figures["off_nominal"] = abs(figures["false_alarm_rate"] - false_alarm_rate)
    return {**figures, **{f"model_{key}": value for key, value in found.items()}}


def _simulated(
    monitors: list[DataDrift],
    images: Float[Tensor, "n channels h w"],
    size: int,
    described: dict[str, Describe | None],
    simulations: int,
    repeats: int,
    seed: int,
) -> dict[str, float]:
    """The rate of the first monitor's alarms without drift; medians of the second one's p-values and delays with it."""
    quiet, strict = monitors
    generator = torch.Generator().manual_seed(seed)

    def shuffled() -> Tensor:
        return images[torch.randperm(len(images), generator=generator)]

    alarms = 0
    for _ in range(simulations):
        fresh = shuffled()[: size + quiet.window]
        alarms += quiet.fit(fresh[:size], **described).test(fresh[size:]).alarm
    figures = {"false_alarm_rate": alarms / simulations}
    kinds = {name: change for name, change in shifts(generator).items() if name != "hue" or images.shape[1] == 3}
    found: dict[str, list[float]] = {f"{word}_{name}": [] for word in ("p", "delay") for name in kinds}
    for _ in range(repeats):
        fresh = shuffled()
        strict.fit(fresh[:size], **described)
        for name, change in kinds.items():
            changed = change(fresh[size + strict.window :])
            found[f"p_{name}"].append(strict.test(changed[: strict.window]).p_value)
            strict.reset()
            strict.observe(fresh[size : size + strict.window])
            found[f"delay_{name}"].append(float(_delay(strict, changed)))
    return figures | {key: median(values) for key, values in found.items()}


def shifts(generator: torch.Generator) -> dict[str, Describe]:
    """Four changes of camera and light: darker by a fifth, hue turned by 40 degrees, noise of 0.05, a 3 x 3 blur."""

    return {
        "brightness": lambda image: image * 0.8,
        "hue": lambda image: colour.hue(image, image.new_full((len(image),), 1 / 9)),
        "noise": lambda image: (image + 0.05 * torch.randn(image.shape, generator=generator)).clamp(0, 1),
        "blur": lambda image: F.avg_pool2d(image, 3, 1, 1, count_include_pad=False),
    }


def _delay(monitor: DataDrift, images: Tensor) -> int:
    """Images after the change until the first alarm; one more than there are when none came."""
    for first in range(0, len(images), monitor.stride):
        report = monitor.observe(images[first : first + monitor.stride])
        if report is not None and report.alarm:
            return first + monitor.stride
    return len(images) + 1
