"""Write the README's table of systems from `results/` and the catalogue; run it at the repository's root."""

import json
import re
from pathlib import Path

from oculi import catalogue


def table() -> str:
    """Markdown: one row per system, what it had to reach and what it reached."""
    rows = ["| system | what it is | to reach | reached | minutes |", "| --- | --- | --- | --- | --- |"]
    for recipe in catalogue.recipes():
        path = Path("results") / recipe.family / f"{recipe.id}.json"
        result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        wanted = ", ".join(f"{key} {value}" for key, value in recipe.score.items())
        got, minutes = "not run yet", ""
        if result:
            got = ", ".join(f"{result['figures'][key]:.4g}" for key in result["score"])
            got += "" if result["reached"] else " (**short**)"
            minutes = f"{result['minutes']:.1f}"
        rows.append(f"| `{recipe.id}` | {recipe.summary} | {wanted} | {got} | {minutes} |")
    return "\n".join(rows)


def written(readme: str) -> str:
    """The README with the table in its place."""
    return re.sub(r"(<!-- table -->\n).*?(<!-- /table -->)", lambda m: m[1] + table() + "\n" + m[2], readme, flags=re.S)


if __name__ == "__main__":
    path = Path("README.md")
    path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
