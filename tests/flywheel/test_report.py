"""Reports: one page that needs nothing else, charts that can be read."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from oculi.flywheel.report import Section, as_text, framed, write_page
from oculi.learn.charts import bars, lines
from oculi.predictions import PALETTE


def test_the_page_is_self_contained_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    section = Section("Score <b>", "a & b", [("accuracy", "<97 %>")], [("a picture", Image.new("RGB", (8, 8)))])
    write_page(tmp_path / "report.html", "demo", "summary", [section])
    page = (tmp_path / "report.html").read_text()
    assert "<b>" not in page
    assert "&lt;97 %&gt;" in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert as_text([section]) == "Score <b>\n  accuracy  <97 %>"


def test_a_marked_bar_is_orange_and_a_limit_is_drawn() -> None:
    colours = {colour for _, colour in bars({"a": 1.0, "b": 2.0}, "score", ["b"]).getcolors(1 << 20) or []}
    assert {PALETTE[0], PALETTE[1]} <= colours
    plain, limited = (lines([0, 1], {"a": [0, 1]}, "x", "y", limit=limit) for limit in (None, 0.5))
    assert plain.tobytes() != limited.tobytes()


def test_the_frame_tells_right_from_wrong() -> None:
    tile = Image.new("RGB", (4, 4))
    assert framed(tile, True).getpixel((0, 0)) == PALETTE[0]
    assert framed(tile, False).getpixel((0, 0)) == PALETTE[1]
