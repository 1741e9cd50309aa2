r"""Charts, drawn with matplotlib: a line per series, or a bar per name. Colours that everyone tells apart."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from oculi.predictions import PALETTE

_MARKERS = "os^Dv<>"
_NAME_PLACES = [(side, up) for up in (3, -9, 13, -19, 23, -29) for side in (5, -5)]  # of a name beside its point


def lines(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    across: str,
    up: str,
    limit: float | None = None,
    marked: Sequence[bool] = (),
    change: float | None = None,
) -> Image.Image:
    """One line per series over `x`, told apart by colour and marker; `limit` is drawn as a dashed line.

    The points `marked` of every series are ringed in orange; at `change` stands a dotted upright line.
    """
    figure, axes = _axes(across, up)
    for index, (name, values) in enumerate(series.items()):
        axes.plot(x, values, color=_colour(index), marker=_MARKERS[index % len(_MARKERS)], markersize=4, label=name)
        rung = [i for i, mark in enumerate(marked) if mark]
        axes.plot(
            [x[i] for i in rung], [values[i] for i in rung], "o", color=_colour(1), markersize=8, fillstyle="none"
        )
    if change is not None:
        axes.axvline(change, color="0.4", linestyle=":", label="change")
    if limit is not None:
        axes.axhline(limit, color="0.4", linestyle="--", label="alarm")
    if len(series) > 1 or limit is not None or change is not None:
        axes.legend(frameon=False)
    return _picture(figure)


def bars(
    values: Mapping[str, float], across: str, marked: Sequence[str] = (), limit: float | None = None
) -> Image.Image:
    """One horizontal bar per name with its figure beside it; those `marked` are orange and starred."""
    figure, axes = _axes(across, "", height=0.8 + 0.28 * len(values))
    names = list(values)[::-1]
    colours = [_colour(1 if name in marked else 0) for name in names]
    drawn = axes.barh(
        [f"{name} *" if name in marked else name for name in names], [values[n] for n in names], color=colours
    )
    axes.bar_label(drawn, fmt="%.3g", padding=3)
    if limit is not None:
        axes.axvline(limit, color="0.4", linestyle="--")
    axes.margins(x=0.15)
    return _picture(figure)


def points(values: Mapping[str, tuple[float, float]], across: str, up: str, log: bool = False) -> Image.Image:
    """One point per pair (across, up), its name where no other stands; `log` scales the first of them logarithmically."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure, axes = _axes(across, up, width=8.0, height=5.0)
    for x, y in values.values():
        axes.plot(x, y, "o", color=_colour(0))
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.15)
    figure.draw_without_rendering()  # settles where the points lie on the picture
    taken: list[Any] = []
    for name, place in sorted(values.items(), key=lambda item: -item[1][1]):
        label = axes.annotate(name, place, xytext=(0, 0), textcoords="offset points", fontsize=8)
        for offset in _NAME_PLACES:
            label.set_position(offset)
            label.set_horizontalalignment("left" if offset[0] > 0 else "right")
            box = label.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
    return _picture(figure)


def _colour(index: int) -> tuple[float, float, float]:
    red, green, blue = PALETTE[index % len(PALETTE)]
    return red / 255, green / 255, blue / 255


def _axes(across: str, up: str, width: float = 6.0, height: float = 3.0) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _picture(figure: Any) -> Image.Image:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return Image.open(stream).convert("RGB")
