r"""Backbones whose recipe is on other data, trained on the World's 32 classes as well, so that one table compares all.

    python benchmarks/backbones_on_world.py resnet vit lenet non_local_network

Same data, augmentation and about the same time as the recipes of the others. Writes accuracy on the test split, minutes
and the arguments to `results/backbones/on_world.json`, which `backbones_table.py` reads.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from oculi import catalogue
from oculi.learn.evaluation import evaluate
from oculi.learn.training import train
from oculi.system import replacing

KEPT = Path("results/backbones/on_world.json")
LIKE = "vgg"  # the recipe whose data they share
COMMON = {"batch_size": 64, "warmup": 100, "schedule": "cosine", "augment": {"flip": 0.5, "shift": 0.06}}
ADAM = {**COMMON, "optimizer": "adam", "lr": 0.003, "weight_decay": 0.0001}
NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "resnet": (
        {"depths": [2, 2, 2, 2], "bottleneck": False, "width": 24, "zero_init": True},
        {**ADAM, "steps": 900},
    ),
    "non_local_network": (
        {"depths": [1, 1, 1, 1], "bottleneck": False, "width": 32, "non_local": [[2, 0]], "zero_init": True},
        {**ADAM, "steps": 800},
    ),
    "vit": (
        {"patch": 8, "width": 96, "depth": 6, "heads": 4, "hidden": 384},
        {
            **COMMON,
            "optimizer": "adamw",
            "lr": 0.002,
            "weight_decay": 0.05,
            "clip": 1.0,
            "steps": 1500,
            "batch_size": 32,
        },
    ),
    "lenet": (
        {"channels": [24, 64], "hidden": [256, 128]},
        {**COMMON, "optimizer": "adam", "lr": 0.002, "steps": 2000, "batch_size": 32},
    ),
}


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument(
        "--split", default="test", choices=["validation", "test"], help="validation: print, write nothing"
    )
    parser.add_argument("--steps", type=int, default=0, help="fewer steps, to try something")
    options = parser.parse_args()
    for name in options.networks:
        own, training = NETWORKS[name]
        arguments = {"num_classes": 32, "in_channels": 3, "image_size": 64, **own}
        if options.steps:
            training = {**training, "steps": options.steps}
        data = catalogue.recipe(LIKE).data
        recipe = replace(catalogue.recipe(name), arguments=arguments, training=training, data=data, protocol="")
        started = time.perf_counter()
        run = train(recipe)
        accuracy = evaluate(run.system, run.splits, split=options.split)["accuracy"]
        minutes = (time.perf_counter() - started) / 60
        print(f"{name}: {options.split} accuracy {accuracy:.4f} in {minutes:.1f} minutes", flush=True)
        if options.split == "test" and not options.steps:
            kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}
            found = {"accuracy": accuracy, "minutes": round(minutes, 2), "arguments": arguments, "training": training}
            with replacing(KEPT) as temporary:
                temporary.write_text(json.dumps(kept | {name: found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
