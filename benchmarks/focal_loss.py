r"""Focal loss beside cross-entropy where objects are many, and where background drowns them.

    python benchmarks/focal_loss.py --seeds 2 --steps 600

RetinaNet twice, gamma 2 (with its alpha of 1/4) and 0, same start, same pictures, on two kinds of World scenes: `crowded`,
up to five large objects on anchors from stride 4 on, and `sparse`, one small object on anchors from stride 2 on. Prints
how many anchors there are for one that answers for an object, and COCO's AP for each seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import torch
from feature_pyramid import learned

from oculi.data.datasets import Splits
from oculi.data.sources import open_data
from oculi.detect.retinanet import RetinaNet, matched_to
from oculi.learn.learner import seed_everything
from oculi.nn.detection import objects_of
from oculi.system import evaluating
from oculi.types import Batch

SMALL: dict[str, Any] = {"num_classes": 5, "width": 16, "channels": 48, "towers": 1, "extra": 0, "image_size": 64}
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
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    for kind in options.kinds:
        arguments, knobs = KINDS[kind]
        splits = open_data("world", task="detection", size=64, train=3000, validation=10, test=300, **knobs)
        gains = []
        for seed in range(options.seeds):
            found = {}
            for gamma in (2.0, 0.0):
                seed_everything(seed)
                system = RetinaNet(**SMALL, **arguments, gamma=gamma)
                one_in = anchors_for_one(system, splits)
                figures = learned(system, splits, options.steps, seed)
                found[gamma] = {name: round(figures[name], 4) for name in ("map", "map50")}
                described = {"scenes": kind, "one anchor in": round(one_in), "seed": seed, "gamma": gamma}
                print(json.dumps({**described, **found[gamma]}), flush=True)
            gains.append({name: found[2.0][name] - found[0.0][name] for name in found[2.0]})
        mean = {name: round(statistics.mean(gain[name] for gain in gains), 4) for name in gains[0]}
        print(json.dumps({"scenes": kind, "gain of focal loss": mean, "seeds": options.seeds, "steps": options.steps}))


if __name__ == "__main__":
    main()
