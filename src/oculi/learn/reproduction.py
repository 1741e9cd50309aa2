r"""`oculi reproduce`: run a recipe to its score and write the figures to `results/<family>/<system>.json`."""

from __future__ import annotations

import datetime
import json
import operator
import os
import platform
import re
import time
from dataclasses import dataclass, replace
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch

from oculi import catalogue
from oculi.catalogue import BadRecipe, Recipe
from oculi.data.sources import open_data
from oculi.learn.evaluation import evaluate
from oculi.learn.training import cache_folder, cached, source_recipe, train
from oculi.system import replacing

_COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


@dataclass
class Result:
    """What a recipe gave: every figure, the score it had to reach, and whether it did.

    minutes: on the clock, which counts what else the machine does; cpu_minutes: of all this process's threads.
    """

    id: str
    figures: dict[str, float]
    score: dict[str, str]
    failed: list[str]
    minutes: float
    cpu_minutes: float

    @property
    def reached(self) -> bool:
        """Whether every score was reached."""
        return not self.failed


def missed(figures: dict[str, float], score: dict[str, str], name: str = "") -> list[str]:
    """The conditions of `score` ({"accuracy": ">= 0.985"}) that the figures do not meet, each as a sentence."""
    failures = []
    for metric, condition in score.items():
        matched = re.fullmatch(r"(>=|<=|>|<)\s*([-+.\deE]+)", str(condition).strip())
        if matched is None:
            raise BadRecipe(f"{name}: score {metric}: {condition!r} is not a comparison like '>= 0.9'")
        if metric not in figures:
            raise BadRecipe(f"{name}: score {metric}{catalogue.nearest(metric, figures)}")
        if not _COMPARISONS[matched[1]](figures[metric], float(matched[2])):
            failures.append(f"{metric} {figures[metric]:.4g}, expected {condition}")
    return failures


def run_recipe(recipe: Recipe, progress: bool = True) -> dict[str, float]:
    """Every figure of a recipe: its experiment's, or its protocol's after training, beside its baseline's."""
    if recipe.experiment is not None:
        module = import_module(recipe.system.rpartition(".")[0])
        return {key: float(value) for key, value in module.experiment(**recipe.experiment).items()}
    first = recipe.training.get("seed", 0)
    seeds = [{**recipe.training, "seed": first + k} for k in range(recipe.seeds)]
    each = [
        _trained(replace(recipe, training=training) if recipe.seeds > 1 else recipe, progress) for training in seeds
    ]
    return {key: sum(figures[key] for figures in each) / len(each) for key in each[0]}


def _trained(recipe: Recipe, progress: bool) -> dict[str, float]:
    """The figures of one training, and of its baseline's."""
    changed = {key if "." in key else f"arguments.{key}": value for key, value in recipe.baseline.items()}
    same_data = bool(changed) and not any(key.startswith("data.") for key in changed)
    splits = open_data(**recipe.data) if same_data else None  # one rendering of a World serves both
    run = train(recipe, cache_folder(recipe), progress=progress, splits=splits)  # for those that need it
    figures = evaluate(run.system, run.splits, recipe.protocol)
    if changed:
        other = train(recipe, overrides=changed, progress=progress, splits=splits)
        below = evaluate(other.system, other.splits, recipe.protocol)
        figures |= {f"baseline_{key}": value for key, value in below.items()}
        figures |= {f"gain_{key}": figures[key] - value for key, value in below.items() if key in figures}
    return figures


def reproduce(name: str, results: str | Path = "results", progress: bool = True) -> Result:
    """Run the recipe from scratch and write its result; what it `needs` comes from the cache and is not timed."""
    recipe = catalogue.recipe(name)
    for need in [*map(catalogue.recipe, recipe.needs), *source_recipe(recipe)]:
        cached(need, progress)
    started, worked = time.perf_counter(), time.process_time()
    figures = run_recipe(recipe, progress)
    minutes, cpu_minutes = (time.perf_counter() - started) / 60, (time.process_time() - worked) / 60
    result = Result(name, figures, recipe.score, missed(figures, recipe.score, name), minutes, cpu_minutes)
    folder = Path(results) / recipe.family
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(_record(recipe, result), indent=2) + "\n", encoding="utf-8")
    return result


def _record(recipe: Recipe, result: Result) -> dict[str, Any]:
    packages = ("torch", "numpy", "pytorch-lightning")
    return {
        "system": recipe.id,
        "reached": result.reached,
        "score": recipe.score,
        "figures": {key: float(f"{value:.6g}") for key, value in result.figures.items()},
        "minutes": round(result.minutes, 2),
        "cpu_minutes": round(result.cpu_minutes, 2),
        "minutes_allowed": recipe.minutes,
        "seeds": recipe.seeds,
        "seed": recipe.training.get("seed", (recipe.experiment or {}).get("seed", 0)),
        "date": datetime.date.today().isoformat(),
        "versions": {name: metadata.version(name) for name in packages},
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }
