r"""One table of all backbones: accuracy of their recipes, parameters, multiply-adds and pictures a second.

    python benchmarks/backbones_table.py --repetitions 5

Accuracy is read from `results/backbones/`, the rest is measured on the network of each recipe: multiply-adds of one
picture by `oculi.learn.inspection`, pictures a second of the forward pass in batches of 32, all networks in turn in one
process, the median of the repetitions. Writes `results/backbones/README.md` and `results/backbones/accuracy.png`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from oculi import catalogue
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


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    recipes = [r for r in catalogue.recipes() if r.family == "backbones" and (FOLDER / f"{r.id}.json").is_file()]
    systems = {recipe.id: build(recipe) for recipe in recipes}
    images = {
        name: torch.rand(BATCH, s.contract.channels, s.contract.height, s.contract.width) for name, s in systems.items()
    }
    times: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(options.repetitions + 1):  # the first is the warm-up
        for name, system in systems.items():
            times[name].append(seconds(system, images[name]))
    rows = []
    for recipe in recipes:
        result = json.loads((FOLDER / f"{recipe.id}.json").read_text(encoding="utf-8"))
        system, speed = systems[recipe.id], BATCH / statistics.median(times[recipe.id][1:])
        source = recipe.data["name"]
        rows.append(
            {
                "network": recipe.title,
                "data": source,
                "pixels": f"{system.contract.height}",
                "accuracy": result["figures"]["accuracy"],
                "minutes": result["minutes"],
                "parameters": sum(p.numel() for p in system.parameters()),
                "multiply-adds": inspect(system).multiply_adds,
                "pictures/s": round(speed),
            }
        )
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
