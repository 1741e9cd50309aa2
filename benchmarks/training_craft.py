r"""What averaged weights, mixup and RandAugment bring on digits, each against the same training without it.

    python benchmarks/training_craft.py

Test accuracy of an exponential average and of the last iterate, five seeds at a constant rate; calibration error with and
without mixup, 100 pictures learned by heart; accuracy with and without RandAugment, 100 pictures. A line of JSON each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from oculi.data.datasets import Splits, batches
from oculi.data.digits import load
from oculi.learn.training import train
from oculi.metrics.classification import accuracy, calibration_error
from oculi.system import predict

# what, measure, pictures (0 = all), system, seeds, settings, what is added
TRIALS: list[tuple[str, str, int, str, int, dict[str, Any], dict[str, Any]]] = [
    (
        "model averaging", "accuracy", 0, "mlp", 5,
        {"steps": 300, "schedule": "constant", "lr": 0.01, "warmup": 0}, {"ema": 0.98},
    ),
    (
        "mixup", "calibration error", 100, "mlp", 3,
        {"steps": 800, "schedule": "cosine", "lr": 0.003}, {"mix": {"mixup": 0.1}},
    ),
    (
        "RandAugment", "accuracy", 100, "resnet", 3,
        {"steps": 400, "lr": 0.05, "batch_size": 50, "augment": {}, "warmup": 20},
        {"policy": {"name": "randaugment", "operations": 1, "magnitude": 9}},
    ),
]  # fmt: skip
MLP = {"arguments.dropout": 0.0, "arguments.hidden": [64]}


def scores(name: str, splits: Splits, training: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy and calibration error on the test split."""
    overrides = {**(MLP if name == "mlp" else {}), **{f"training.{key}": value for key, value in training.items()}}
    run = train(name, overrides=overrides, progress=False, splits=splits)
    pairs = [(predict(run.system, batch), batch.label) for batch in batches(run.splits.test, 256)]
    said = torch.stack([answer.probabilities for answers, _ in pairs for answer in answers])
    label = torch.cat([one for _, one in pairs])
    return {"accuracy": accuracy(said.argmax(1), label), "calibration error": calibration_error(said, label)}


def main() -> None:
    """Measure and print."""
    digits = load()
    for what, measure, most, name, seeds, settings, added in TRIALS:
        few = [digits.train[i] for i in range(most or len(digits.train))]
        splits = Splits(few, digits.validation, digits.test, digits.class_names)
        runs = [{**settings, "seed": seed} for seed in range(seeds)]
        without, given = ([scores(name, splits, {**run, **more})[measure] for run in runs] for more in ({}, added))
        means = {"without": sum(without) / seeds, "with": sum(given) / seeds}
        print(json.dumps({"what": what, "measure": measure, **means, "seeds": [without, given]}), flush=True)


if __name__ == "__main__":
    main()
