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
from PIL import Image, ImageDraw
from torch import Tensor

from oculi.monitor.data_drift import DataDrift, DriftReport
from oculi.predictions import PALETTE


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

    def plot(self, width: int = 640, height: int = 260) -> Image.Image:
        """The largest KS of each window as a share of what raises the alarm; orange did, the line is where it begins."""
        picture = Image.new("RGB", (width, height), (255, 255, 255))
        draw = ImageDraw.Draw(picture)
        left, right, top, bottom = 50, width - 16, 34, height - 34
        shares = [max(c["ks"] for c in r.features.values()) / r.threshold for r in self.reports]
        most, last = max([1.5, *shares]), max((r.last for r in self.reports), default=1)

        def at(images: float, share: float) -> tuple[float, float]:
            return left + (right - left) * images / last, bottom - (bottom - top) * share / most

        draw.text((left, 8), "largest KS / alarm threshold, by window", fill=(0, 0, 0))
        draw.text((right - 100, height - 20), "images seen", fill=(0, 0, 0))
        draw.line([at(0, 0), at(last, 0)], fill=(0, 0, 0))
        draw.line([at(0, 1), at(last, 1)], fill=(120, 120, 120))
        for share in (0.0, 1.0):
            draw.text((18, at(0, share)[1] - 6), f"{share:g}", fill=(0, 0, 0))
        if self.change is not None:
            draw.line([at(self.change, 0), at(self.change, most)], fill=(120, 120, 120))
            draw.text((at(self.change, most)[0] + 4, top - 10), "change", fill=(0, 0, 0))
        for report, share in zip(self.reports, shares, strict=True):
            x, y = at(report.last, share)
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=PALETTE[int(report.alarm)])
        return picture


def watch(
    monitor: DataDrift, clean: Float[Tensor, "n c h w"], changed: Float[Tensor, "m c h w"] | None = None
) -> Stream:
    """Feed the clean images, then the changed ones, and keep every window's verdict. Forgets earlier images first."""
    monitor.reset()
    images = clean if changed is None else torch.cat([clean, changed])
    parts = images.split(math.gcd(monitor.window, monitor.stride))  # a window ends with a part, never inside one
    reports = [report for part in parts if (report := monitor.observe(part)) is not None]
    return Stream(reports, None if changed is None else len(clean))
