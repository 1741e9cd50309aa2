r"""Masked beside plain cross-attention in Mask2Former: panoptic quality after as many steps.

    python benchmarks/masked_attention.py --steps 700

The recipe twice, same start, same pictures, once with `masked: false`. A line of JSON each, and the gain.
"""

from __future__ import annotations

import argparse
import json

from oculi import catalogue
from oculi.data.sources import open_data
from oculi.learn.evaluation import evaluate
from oculi.learn.training import train


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=700)
    options = parser.parse_args()
    recipe = catalogue.recipe("mask2former").with_overrides({"training.steps": options.steps, "data.validation": 1})
    splits = open_data(**recipe.data)
    found = {}
    for masked in (True, False):
        run = train(recipe, overrides={"arguments.masked": masked}, progress=False, splits=splits)
        figures = evaluate(run.system, run.splits, recipe.protocol)
        found[masked] = {name: round(figures[name], 4) for name in ("pq", "sq", "rq") if name in figures}
        print(json.dumps({"masked": masked, **found[masked]}), flush=True)
    print(json.dumps({"gain": {name: round(value - found[False][name], 4) for name, value in found[True].items()},
                      "steps": options.steps}))  # fmt: skip


if __name__ == "__main__":
    main()
