r"""A stream of images watched window by window: does the alarm stay silent on clean images and ring on changed ones?

    found = watch(monitor, clean, changed)
    found.false_alarm_rate                    share of the clean windows that raised it
    found.alarm, found.delay                  whether it rang after the change, and after how many changed images
    found.plot()                              KS over its threshold, window by window

The clean images must be other than the reference. Windows that overlap share their errors: of w windows of n images
with stride s only about w·s/n are independent, so a small stream says little about a small rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from oculi.learn.charts import lines
from oculi.monitor.data_drift import DataDrift, DriftReport


@dataclass(frozen=True)
class Stream:
    """The verdict of every window, and where the change came; `delay` is None when no alarm followed it."""

    reports: list[DriftReport]
    change: int | None  # images before the change

    @property
    def clean(self) -> list[DriftReport]:
        """Windows of clean images alone."""
        return [r for r in self.reports if self.change is None or r.last <= self.change]

    @property
    def changed(self) -> list[DriftReport]:
        """Windows with at least one changed image."""
        return [r for r in self.reports if self.change is not None and r.last > self.change]

    @property
    def false_alarm_rate(self) -> float:
        """Share of the clean windows that raised the alarm."""
        return sum(r.alarm for r in self.clean) / max(1, len(self.clean))

    @property
    def alarm(self) -> bool:
        """Whether a window with changed images raised it."""
        return any(r.alarm for r in self.changed)

    @property
    def delay(self) -> int | None:
        """Changed images seen until then."""
        return next((r.last - (self.change or 0) for r in self.changed if r.alarm), None)

    @property
    def worst(self) -> str:
        """The column that moved most in the last window."""
        return self.reports[-1].worst if self.reports else ""

    def rows(self) -> list[tuple[str, str]]:
        """Names and figures for a report."""
        rang = "no" if self.delay is None else f"yes, after {self.delay} changed images"
        return [
            ("clean windows that raised the alarm", f"{sum(r.alarm for r in self.clean)} of {len(self.clean)}"),
            ("alarm after the change", rang),
            ("what moved most", self.worst),
        ]

    def plot(self) -> Image.Image:
        """The largest KS of each window as a share of what raises the alarm; windows that raised it are ringed."""
        shares = [max(c["ks"] for c in r.features.values()) / r.threshold for r in self.reports]
        seen, rang = [r.last for r in self.reports], [r.alarm for r in self.reports]
        what = "largest KS / alarm threshold"
        return lines(seen, {what: shares}, "images seen", what, 1.0, rang, self.change)


def watch(
    monitor: DataDrift, clean: Float[Tensor, "n c h w"], changed: Float[Tensor, "m c h w"] | None = None
) -> Stream:
    """Feed the clean images, then the changed ones, and keep every window's verdict. Forgets earlier images first."""
    monitor.reset()
    images = clean if changed is None else torch.cat([clean, changed])
    parts = images.split(math.gcd(monitor.window, monitor.stride))  # a window ends with a part, never inside one
    reports = [report for part in parts if (report := monitor.observe(part)) is not None]
    return Stream(reports, None if changed is None else len(clean))
