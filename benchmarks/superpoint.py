r"""What each stage of SuperPoint knows: corners of synthetic shapes, and points found again in warped World scenes.

    python benchmarks/superpoint.py --pictures 200

The stages are those of the recipe, trained first where `runs/cache` has them not: MagicPoint, the detector after one
round of homographic adaptation, and SuperPoint; Harris beside them. Prints, a line of JSON each:

    corners     average precision within 3 pixels on noisy synthetic shapes, and more noise added (sigma 0.05, 0.1)
    repeated    share of points found again after a random homography, by the detector as it is and aggregated over
                warps; all give as many points a picture as `--points` says, its best
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import torch

from oculi import catalogue
from oculi.classical.harris_corner import HarrisCorner
from oculi.classical.superpoint import SuperPoint
from oculi.data.datasets import Splits
from oculi.data.sources import open_data
from oculi.learn.protocols.keypoints import score
from oculi.learn.training import cached, open_splits, source_recipe
from oculi.system import System


def noisy(splits: Splits, sigma: float) -> Splits:
    """The test pictures with more noise."""
    generator, samples = torch.Generator().manual_seed(0), []
    for index in range(len(splits.test)):
        sample = splits.test[index]
        assert sample.image is not None
        noise = sigma * torch.randn(sample.image.shape, generator=generator)
        samples.append(replace(sample, image=(sample.image + noise).clamp(0, 1)))
    return Splits(samples, samples, samples)


def main() -> None:
    """Train what is missing, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--points", type=int, default=15, help="a picture, the best ones")
    options = parser.parse_args()
    recipe = catalogue.recipe("superpoint")
    (second,) = source_recipe(recipe)
    (first,) = source_recipe(second)
    stages: dict[str, System] = {
        "MagicPoint": cached(first).system,
        "adapted once": cached(second).system,
        "SuperPoint": cached(recipe).system,
        "Harris": HarrisCorner(64),
    }
    shapes = open_data("synthetic_shapes", size=64, train=2, validation=2, test=options.pictures)
    for sigma in (0.0, 0.05, 0.1):
        splits = noisy(shapes, sigma)
        found = {name: round(score(system, splits, "test")["corner_ap"], 3) for name, system in stages.items()}
        print(json.dumps({"corners, noise added": sigma, **found}), flush=True)
    few = recipe.with_overrides({"data.train": 2, "data.validation": 2, "data.test": options.pictures})
    splits = open_splits(few, stages["SuperPoint"])
    for name, system in stages.items():
        ways = {"as it is": {}, "aggregated": {"adapted": True}} if isinstance(system, SuperPoint) else {"as it is": {}}
        row = {}
        for way, extra in ways.items():
            made = type(system)(**{**system.config, "max_keypoints": options.points, **extra})
            made.load_state_dict(system.state_dict())
            figures = score(made.eval(), splits, "test")
            row[way] = {key: round(figures[key], 3) for key in ("repeatability", "points")}
        print(json.dumps({"repeated": name, **row}), flush=True)


if __name__ == "__main__":
    main()
