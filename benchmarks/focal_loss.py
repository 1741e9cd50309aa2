r"""Focal loss beside cross-entropy where objects are many, and where background drowns them.

    python benchmarks/focal_loss.py --seeds 2 --steps 600

RetinaNet three times, same weights but for the biases of its last layer, same pictures: by the focal loss (gamma 2, alpha
1/4), by cross-entropy that starts as the focal loss does, every anchor background with 0.99, and by cross-entropy as it
stood before that paper, every anchor as likely an object as not. Two kinds of World scenes: `crowded`, up to five large
objects on anchors from stride 4 on, and `sparse`, one small object on anchors from stride 2 on. Prints how many anchors
there are for one that answers for an object, and COCO's AP for each seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any, cast

import torch
from feature_pyramid import learned
from torch import Tensor, nn

from oculi.data.datasets import Splits
from oculi.data.sources import open_data
from oculi.detect.retinanet import RetinaNet, matched_to
from oculi.learn.learner import seed_everything
from oculi.nn.detection import objects_of
from oculi.system import evaluating
from oculi.types import Batch

SMALL: dict[str, Any] = {"num_classes": 5, "width": 16, "channels": 48, "towers": 1, "extra": 0, "image_size": 64}
LOSSES = {"focal": (2.0, True), "cross-entropy from 0.01": (0.0, True), "cross-entropy": (0.0, False)}  # gamma, prior
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "crowded": ({"depths": [1, 1, 1], "anchors": [10, 18, 30]}, {"objects": [1, 5], "radius": [0.7, 1.2]}),
    "sparse": (
        {"depths": [1, 1, 1, 1], "stem": "small", "anchors": [6, 12, 24]},
        {"objects": [1, 1], "radius": [0.3, 0.5]},
    ),
}


def anchors_for_one(system: RetinaNet, splits: Splits) -> float:
    """How many anchors there are for each that answers for an object."""
    batch = Batch.of([splits.test[index] for index in range(64)])
    with evaluating(system):
        anchors = torch.cat(system.anchors(system.features(batch.pictures)))
    matched = matched_to(objects_of(batch), anchors)
    return matched.numel() / int((matched >= 0).sum())


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    for kind in options.kinds:
        arguments, knobs = KINDS[kind]
        splits = open_data("world", task="detection", size=64, train=3000, validation=10, test=300, **knobs)
        found: dict[str, list[float]] = {loss: [] for loss in options.losses}
        for seed in range(options.seeds):
            for loss in options.losses:
                gamma, prior = LOSSES[loss]
                seed_everything(seed)
                system = RetinaNet(**SMALL, **arguments, gamma=gamma)
                if not prior:
                    nn.init.zeros_(cast("Tensor", system.classes.output.bias))
                one_in = anchors_for_one(system, splits)
                figures = learned(system, splits, options.steps, seed)
                found[loss].append(figures["map"])
                described = {"scenes": kind, "one anchor in": round(one_in), "seed": seed, "loss": loss}
                print(json.dumps({**described, **{k: round(figures[k], 4) for k in ("map", "map50")}}), flush=True)
        mean = {loss: round(statistics.mean(scores), 4) for loss, scores in found.items()}
        print(json.dumps({"scenes": kind, "mean AP": mean, "seeds": options.seeds, "steps": options.steps}), flush=True)


if __name__ == "__main__":
    main()
