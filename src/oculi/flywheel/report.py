r"""A report: sections of a sentence, a table and pictures, as text for the terminal and as one self-contained page."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from oculi.predictions import PALETTE
from oculi.system import replacing

_STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:0}h2{margin-top:2.5rem;border-bottom:2px solid #0072b2}table{border-collapse:collapse;margin:1rem 0}
td,th{padding:.25rem 1rem .25rem 0;text-align:left;border-bottom:1px solid #8884}td+td{font-variant-numeric:tabular-nums}
figure{margin:1rem 1rem 1rem 0;display:inline-block;vertical-align:top}img{max-width:100%;image-rendering:pixelated}
figcaption{color:#777;max-width:30rem}
"""


@dataclass
class Section:
    """What one step of a report says: `rows` of name and value, `pictures` with captions."""

    title: str
    text: str
    rows: list[tuple[str, str]] = field(default_factory=list)
    pictures: list[tuple[str, Image.Image]] = field(default_factory=list)


def as_text(sections: list[Section]) -> str:
    """The tables, for a terminal."""
    width = max((len(name) for s in sections for name, _ in s.rows), default=0)
    blocks = ["\n".join([s.title, *(f"  {name:{width}}  {value}" for name, value in s.rows)]) for s in sections]
    return "\n\n".join(blocks)


def write_page(path: Path, title: str, summary: str, sections: list[Section]) -> None:
    """One HTML file that needs nothing else: pictures are inside it, nothing is fetched."""
    body = [f"<h1>{html.escape(title)}</h1><p>{html.escape(summary)}</p>"]
    for section in sections:
        body.append(f"<h2>{html.escape(section.title)}</h2><p>{html.escape(section.text)}</p>")
        if section.rows:
            cells = (f"<tr><td>{html.escape(n)}</td><td>{html.escape(v)}</td></tr>" for n, v in section.rows)
            body.append(f"<table>{''.join(cells)}</table>")
        for caption, picture in section.pictures:
            body.append(
                f'<figure><img src="{_inline(picture)}" alt="{html.escape(caption)}">'
                f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            )
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style><body>{''.join(body)}</body></html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _inline(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def framed(picture: Image.Image, right: bool) -> Image.Image:
    """A frame around an answer: blue where it is right, orange where it is wrong."""
    return ImageOps.expand(picture, 10, PALETTE[0 if right else 1])


def side_by_side(pictures: list[Image.Image], columns: int = 6, gap: int = 6) -> Image.Image:
    """Pictures of one size in rows."""
    width, height = max(p.width for p in pictures) + gap, max(p.height for p in pictures) + gap
    columns = min(columns, len(pictures))
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), (255, 255, 255))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, ((index % columns) * width, (index // columns) * height))
    return sheet


def overview(sections: list[Section], columns: int = 4, width: int = 380, height: int = 200) -> Image.Image:
    """All sections at a glance: one tile each, titled, with its pictures side by side as large as they fit."""
    shown = [section for section in sections if section.pictures]
    tiles = [_tile(section, width, height) for section in shown]
    return side_by_side(tiles, columns, gap=12)


def _tile(section: Section, width: int, height: int, bar: int = 34) -> Image.Image:
    tile = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(tile)
    draw.text((6, 4), section.title, fill=(0, 0, 0), font=ImageFont.load_default(22))
    draw.line([(0, bar - 3), (width, bar - 3)], fill=PALETTE[0], width=3)
    room = (width // len(section.pictures), height - bar - 4)
    for index, (_, picture) in enumerate(section.pictures):
        fitted = ImageOps.contain(picture, (room[0] - 8, room[1]), Image.Resampling.LANCZOS)
        tile.paste(fitted, (index * room[0] + 4, bar + 4))
    return tile
