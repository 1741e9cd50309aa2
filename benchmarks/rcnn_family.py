r"""R-CNN, Fast R-CNN and Faster R-CNN on the same pictures: milliseconds per picture, with and without selective search.

    python benchmarks/rcnn_family.py --pictures 20
    python benchmarks/rcnn_family.py --masks            # also trains Mask R-CNN with RoI Align and with RoI pooling

Each at its recipe's arguments, one picture at a time, as the papers measure; weights are random, so that what is timed is
the work and not what was learned. Interleaved, medians. The papers: 50 s, 2 s (the search counted), 0.2 s a picture. A
line of JSON each. `--masks` runs the recipe of Mask R-CNN and its baseline: mask AP by both ways of pooling.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

import torch

from oculi import catalogue
from oculi.data.sources import open_data
from oculi.learn.training import build
from oculi.system import System, evaluating
from oculi.types import Batch

FAMILY = ("rcnn", "fast_rcnn", "faster_rcnn")


def seconds(system: System, batch: Batch) -> tuple[float, float]:
    """Of the search for proposals, where it is not the network's, and of all the rest."""
    search: Any = getattr(system, "search", None)
    started = time.perf_counter()
    if search is not None:
        search.known.clear()
        search(batch.pictures)
    found = time.perf_counter()
    system.predict(batch)
    return found - started, time.perf_counter() - found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--masks", action="store_true", help="train Mask R-CNN both ways, some 20 minutes")
    options = parser.parse_args()
    torch.manual_seed(0)
    systems = {name: build(catalogue.recipe(name)) for name in FAMILY}
    data = open_data("world", task="detection", size=64, train=1, validation=1, test=options.pictures + 1).test
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in FAMILY}
    for index in range(len(data)):
        batch = Batch.of([data[index]])
        for name, system in systems.items():
            with evaluating(system):
                once = seconds(system, batch)
            if index:  # the first is the warm-up
                spent[name].append(once)
    rows = []
    for name, times in spent.items():
        search, rest = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
        size = sum(p.numel() for p in systems[name].parameters())
        rows.append({"system": name, "search_ms": round(search, 1), "network_ms": round(rest, 1),
                     "total_ms": round(search + rest, 1), "parameters": size})  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    totals = [row["network_ms"] for row in rows]
    print(json.dumps({"rcnn : fast : faster, networks alone": [round(t / totals[-1], 1) for t in totals]}), flush=True)
    if options.masks:
        from oculi.learn.reproduction import run_recipe

        figures = run_recipe(catalogue.recipe("mask_rcnn"), progress=False)
        shown = {
            f"{prefix}{key}"
            for prefix in ("", "baseline_", "gain_")
            for key in ("mask_map", "mask_map50", "mask_map75")
        }
        print(json.dumps({key: round(value, 4) for key, value in figures.items() if key in shown}), flush=True)
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
