r"""One class: the region proposal network alone beside the whole of Faster R-CNN, AP at 0.5 and ms per picture.

    python benchmarks/rpn_detector.py --steps 1500

One training of both stages on scenes of the World whose objects are all of one class; then the same weights answer with
and without the second stage. To be seen: AP within 0.05, at lower latency.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass, replace

import torch

from oculi import catalogue
from oculi.data.datasets import Dataset, Splits, batches
from oculi.data.sources import open_data
from oculi.detect.faster_rcnn import FasterRCNN
from oculi.detect.rpn_detections import rpn_detections
from oculi.learn.learner import Training, fit, seed_everything
from oculi.metrics.detection import Objects, coco
from oculi.nn.detection import Found, answers
from oculi.predictions import Detections
from oculi.types import Sample


@dataclass
class OneClass:
    """The same pictures, every object of class 0."""

    source: Dataset

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        sample = self.source[index]
        assert sample.labels is not None
        return replace(sample, labels=torch.zeros_like(sample.labels))


def main() -> None:
    """Train once, answer twice, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = catalogue.recipe("faster_rcnn")
    data = open_data(**{**recipe.data, "validation": 10})
    splits = Splits(*(OneClass(part) for part in (data.train, data.validation, data.test)), ["object"])
    seed_everything(0)
    system = FasterRCNN(**{**recipe.arguments, "num_classes": 1})
    fit(system, Training(**{**recipe.training, "steps": options.steps}), splits, progress=False)
    system.eval()
    ways = {"both stages": system, "proposals alone": lambda image: rpn_detections(system, image)}
    figures = {}
    for name, answer in ways.items():
        found: list[Detections] = []
        truths, seconds = [], []
        for batch in batches(splits.test, 1):
            with torch.no_grad():
                start = time.perf_counter()
                said: Found = answer(batch.pictures)
                seconds.append(time.perf_counter() - start)
            found += answers(said, None)
            assert batch.boxes is not None
            assert batch.labels is not None
            truths.append(Objects(batch.boxes[0], batch.labels[0]))
        figures[name] = {
            "ap50": round(coco(found, truths, 1).average_precision(0.5), 4),
            "ms": round(1000 * statistics.median(seconds), 1),
        }
        print(json.dumps({"way": name, **figures[name]}), flush=True)
    lost = figures["both stages"]["ap50"] - figures["proposals alone"]["ap50"]
    print(
        f"lost {lost:.3f} (at most 0.05), {figures['proposals alone']['ms'] / figures['both stages']['ms']:.2f} of the time"
    )


if __name__ == "__main__":
    main()
