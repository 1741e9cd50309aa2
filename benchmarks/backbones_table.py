r"""One table of all backbones: accuracy of their recipes, parameters, multiply-adds and pictures a second.

    python benchmarks/backbones_table.py --repetitions 5

Accuracy is read from `results/backbones/`, of those whose recipe is on other data also from `backbones_on_world.py`. The
rest is measured on the same network: multiply-adds of one picture by `oculi.learn.inspection`, pictures a second of the
forward pass in batches of 32, all networks in turn in one process, the median of the repetitions. Writes
`results/backbones/README.md` and `results/backbones/accuracy.png`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from oculi import catalogue
from oculi.catalogue import Recipe
from oculi.learn.charts import points
from oculi.learn.inspection import inspect
from oculi.learn.training import build
from oculi.system import System, evaluating, replacing

FOLDER, BATCH = Path("results/backbones"), 32


def seconds(system: System, image: torch.Tensor) -> float:
    """Of one forward pass."""
    with evaluating(system):
        started = time.perf_counter()
        system(image)
        return time.perf_counter() - started


def kept() -> list[tuple[Recipe, dict[str, Any]]]:
    """Recipes on the World with accuracy and minutes, then those on other data."""
    others = json.loads((FOLDER / "on_world.json").read_text(encoding="utf-8"))
    found = []
    for recipe in catalogue.recipes():
        path = FOLDER / f"{recipe.id}.json"
        if recipe.family != "backbones" or not path.is_file():
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        found.append((recipe, {"accuracy": result["figures"]["accuracy"], "minutes": result["minutes"]}))
        if recipe.id in others:
            world = replace(recipe, arguments=others[recipe.id]["arguments"], data={"name": "world"})
            found.append((world, others[recipe.id]))
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    found = kept()
    systems = [build(recipe) for recipe, _ in found]
    images = [torch.rand(BATCH, s.contract.channels, s.contract.height, s.contract.width) for s in systems]
    times: list[list[float]] = [[] for _ in systems]
    for _ in range(options.repetitions + 1):  # the first is the warm-up
        for system, image, own in zip(systems, images, times, strict=True):
            own.append(seconds(system, image))
    rows = [
        {
            "network": recipe.title,
            "data": recipe.data["name"],
            "pixels": system.contract.height,
            "accuracy": result["accuracy"],
            "minutes": result["minutes"],
            "parameters": sum(p.numel() for p in system.parameters()),
            "multiply-adds": inspect(system).multiply_adds,
            "pictures/s": round(BATCH / statistics.median(own[1:])),
        }
        for (recipe, result), system, own in zip(found, systems, times, strict=True)
    ]
    rows.sort(key=lambda row: (row["data"] != "world", -row["accuracy"]))
    lines = [
        "# Backbones",
        "",
        f"Each recipe's network and score; speed of the forward pass, batch {BATCH}, {torch.get_num_threads()} thread(s), "
        f"torch {torch.__version__}. Written by `python benchmarks/backbones_table.py`.",
        "",
        "| network | data | pixels | accuracy | parameters | multiply-adds | pictures/s | minutes to train |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(
            f"| {row['network']} | {row['data']} | {row['pixels']} | {row['accuracy']:.3f} | {row['parameters'] / 1e6:.2f} M "
            f"| {row['multiply-adds'] / 1e6:.1f} M | {row['pictures/s']:,} | {row['minutes']:.1f} |"
        )
    lines += ["", "![Accuracy against multiply-adds](accuracy.png)"]
    with replacing(FOLDER / "README.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    world = [row for row in rows if row["data"] == "world"]
    drawn = {row["network"]: (row["multiply-adds"] / 1e6, 100 * row["accuracy"]) for row in world}
    points(drawn, "million multiply-adds per picture", "accuracy on World, %", log=True).save(FOLDER / "accuracy.png")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
