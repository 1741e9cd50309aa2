r"""Everything wrong with a file, named in one report.

photos.json: 3 problems
- annotations with a box of no width or height: 17, 20
- pictures that are not on disk: photos/4.jpg
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from oculi.data.sources import BadData

SHOWN = 10
HINT = "Mend the data, or set repair to leave out what is wrong."


class Problems:
    """Problems of one source, gathered by kind until `report` raises them all at once."""

    def __init__(self, source: str | Path):
        self.source = source
        self.found: dict[str, list[str]] = {}

    def add(self, kind: str, which: Iterable[object]) -> None:
        """Things (ids, names, places) that share one problem; none is fine."""
        named = [str(one) for one in which]
        if named:
            self.found.setdefault(kind, []).extend(named)

    @property
    def count(self) -> int:
        """How many there are, of all kinds."""
        return sum(map(len, self.found.values()))

    def lines(self) -> list[str]:
        """One line per kind, with the first things that have it."""
        return [
            f"{kind}: {', '.join(named[:SHOWN])}{f' and {len(named) - SHOWN} more' if len(named) > SHOWN else ''}"
            for kind, named in self.found.items()
        ]

    def told(self, repair: bool) -> list[str]:
        """The lines, where what they name may be left out; otherwise they are raised."""
        if not repair:
            self.report(HINT)
        return self.lines()

    def report(self, hint: str = "") -> None:
        """Raise BadData when there is any problem."""
        if self.found:
            heading = f"{self.source}: {self.count} problem{'s' if self.count > 1 else ''}"
            raise BadData("\n- ".join([heading, *self.lines()]) + (f"\n{hint}" if hint else ""))


def sound_box(corners: Sequence[float], width: int, height: int) -> tuple[list[float], str]:
    """A box x1 y1 x2 y2 cut to the picture, and what is wrong with it (nothing: an empty text).

    >>> sound_box([1, 2, 10.5, 4], 10, 8), sound_box([3, 2, 3, 4], 10, 8)[1]
    (([1.0, 2.0, 10.0, 4.0], ''), 'with a box of no or negative width or height')
    """
    if len(corners) != 4 or not all(math.isfinite(v) for v in corners):
        return [], "whose box is not four finite numbers"
    x1, y1, x2, y2 = (float(v) for v in corners)
    if x2 <= x1 or y2 <= y1:
        return [], "with a box of no or negative width or height"
    inside = [max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))]
    far = min(x1, y1) <= -1 or x2 >= width + 1 or y2 >= height + 1
    if far or inside[2] <= inside[0] or inside[3] <= inside[1]:
        return [], "with a box outside the picture"
    return inside, ""
