r"""SAM's data engine on World scenes: masks and clicks of its three stages, and what the model knows after each.

    python benchmarks/sam_data_engine.py --known 200 --pictures 600 --steps 300

A SAM of the recipe's size learns from the masks of `known` pictures, then labels a third of the others in each stage and
learns on from all labels so far. Truth plays the people. Prints a line of JSON a stage and writes
`results/flywheel/sam_data_engine.json`. To be seen: held-out IoU and masks a picture rise, clicks a mask fall.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

from oculi import catalogue
from oculi.data.datasets import Splits
from oculi.flywheel.data_engine import run
from oculi.learn.learner import fit
from oculi.learn.protocols.promptable import score
from oculi.learn.training import train, training_options
from oculi.system import System, replacing

RESULTS = Path("results/flywheel")


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--known", type=int, default=200, help="pictures whose masks are known at first")
    parser.add_argument("--pictures", type=int, default=600, help="to be labelled in the three stages")
    parser.add_argument("--steps", type=int, default=300, help="of learning before each and after every stage")
    options = parser.parse_args()
    started = time.perf_counter()
    total = {"data.train": options.known + options.pictures, "data.validation": 1, "data.test": 100}
    recipe = catalogue.recipe("sam").with_overrides({**total, "training.steps": options.steps})
    every = train(recipe.with_overrides({"training.steps": 0}), progress=False).splits
    samples = [every.train[index] for index in range(len(every.train))]
    held_out = [every.test[index] for index in range(len(every.test))]
    known, rest = samples[: options.known], samples[options.known :]
    system = train(recipe, progress=False, splits=Splits(known, held_out, held_out)).system

    def learn(model: System, splits: Splits) -> None:
        labels = [replace(sample, boxes=None, labels=None) for sample in known]  # the engine labels masks alone
        labels += [splits.train[index] for index in range(len(splits.train))]
        model.train()
        fit(model, training_options(recipe), Splits(labels, splits.validation, splits.test), progress=False)

    before = score(system, Splits(known, held_out, held_out), "test")["iou_1_click"]
    print(json.dumps({"before": before}), flush=True)
    rows = []
    for stage in run(system, rest, held_out, learn):
        shown = {**asdict(stage), "masks_a_picture": stage.masks_a_picture, "clicks_a_mask": stage.clicks_a_mask}
        rows.append({key: round(value, 4) if isinstance(value, float) else value for key, value in shown.items()})
        print(json.dumps(rows[-1]), flush=True)
    result = {"before": round(before, 4), "stages": rows, "minutes": round((time.perf_counter() - started) / 60, 1),
              "options": vars(options)}  # fmt: skip
    RESULTS.mkdir(parents=True, exist_ok=True)
    with replacing(RESULTS / "sam_data_engine.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
