r"""Everything wrong with a file, named in one report.

photos.json: 3 problems
- annotations with a box of no width or height: 17, 20
- pictures that are not on disk: photos/4.jpg
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from oculi.data.sources import BadData

SHOWN = 10


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

    def report(self, hint: str = "") -> None:
        """Raise BadData when there is any problem."""
        if self.found:
            heading = f"{self.source}: {self.count} problem{'s' if self.count > 1 else ''}"
            raise BadData("\n- ".join([heading, *self.lines()]) + (f"\n{hint}" if hint else ""))
