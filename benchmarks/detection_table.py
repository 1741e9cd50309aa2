r"""All detectors and segmenters in one table: scores of their recipes, parameters, milliseconds a picture.

    python benchmarks/detection_table.py --pictures 8

Scores are read from `results/detect/` and `results/segment/`; the time is that of `oculi.predict`, post-processing
included, one World picture of 64 x 64 at a time, with fresh weights, systems in turn in one process, the median over the
pictures. Writes `results/detect/README.md` and `results/detect/map.png`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from oculi import catalogue
from oculi.data.sources import open_data
from oculi.learn.charts import bars
from oculi.learn.training import build
from oculi.system import predict, replacing

RESULTS = Path("results")
BOXES = {"map": "mAP", "map50": "mAP50", "map_small": "small", "map_medium": "medium", "map_large": "large"}
PIXELS = {"mask_map": "mask mAP", "oks_map": "OKS mAP", "miou": "mIoU", "pq": "PQ", "boundary_iou": "boundary IoU",
          "iou_1_click": "IoU after a click", "j": "J"}  # fmt: skip


def measured(pictures: int) -> list[dict[str, Any]]:
    """A row for every recipe of the two families that has a result."""
    found = [(r, RESULTS / r.family / f"{r.id}.json") for r in catalogue.recipes() if r.family in ("detect", "segment")]
    found = [(recipe, path) for recipe, path in found if path.is_file()]
    systems = [build(recipe).eval() for recipe, _ in found]
    test = open_data("world", task="detection", train=1, validation=1, test=pictures).test
    images = [test[index].image for index in range(pictures)]
    times: list[list[float]] = [[] for _ in systems]
    for image in [images[0], *images]:  # the first is the warm-up
        for system, own in zip(systems, times, strict=True):
            started = time.perf_counter()
            predict(system, [image])
            own.append(time.perf_counter() - started)
    rows = []
    for (recipe, path), system, own in zip(found, systems, times, strict=True):
        result = json.loads(path.read_text(encoding="utf-8"))
        rows.append(
            {
                "title": recipe.title,
                "figures": result["figures"],
                "parameters": sum(p.numel() for p in system.parameters()),
                "ms": 1e3 * statistics.median(own[1:]),
                "minutes": result["minutes"],
            }
        )
    return rows


def table(rows: list[dict[str, Any]], columns: dict[str, str]) -> list[str]:
    """Markdown: those rows that have any of the columns, the best on top; who lacks a column comes after who has it."""
    shown = [row for row in rows if set(columns) & set(row["figures"])]
    shown.sort(key=lambda row: [-row["figures"].get(c, -1.0) for c in columns])
    lines = [f"| system | {' | '.join(columns.values())} | parameters | ms a picture | minutes to train |"]
    lines.append("| --- " * (len(columns) + 4) + "|")
    for row in shown:
        scores = [f"{row['figures'][c]:.3f}" if c in row["figures"] else "" for c in columns]
        rest = f"{row['parameters'] / 1e6:.2f} M | {row['ms']:.1f} | {row['minutes']:.1f}"
        lines.append(f"| {row['title']} | {' | '.join(scores)} | {rest} |")
    return lines


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=8)
    rows = measured(parser.parse_args().pictures)
    lines = [
        "# Detection and segmentation",
        "",
        f"World scenes of 64 x 64; {torch.get_num_threads()} thread(s), torch {torch.__version__}. Sizes of objects: small "
        "below 3/16 of the picture's side, large from 1/4 on. Written by `python benchmarks/detection_table.py`.",
        "",
        *table(rows, BOXES),
        "",
        *table(rows, PIXELS),
        "",
        "![Mean average precision of boxes](map.png)",
    ]
    with replacing(RESULTS / "detect" / "README.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    by_map = sorted((r for r in rows if "map" in r["figures"]), key=lambda r: -r["figures"]["map"])
    bars({r["title"]: r["figures"]["map"] for r in by_map}, "mAP").save(RESULTS / "detect" / "map.png")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
