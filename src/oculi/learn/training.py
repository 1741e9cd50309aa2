r"""Recipes in motion: build a system, open its data, train it, keep the run in a folder.

    run = train("resnet", folder="runs/resnet", overrides={"training.steps": 300})
    run.system, run.splits, run.folder

A run's folder holds `config.json` and `model.safetensors` (what `oculi.load` reads), `recipe.yaml`, `metrics.csv`,
TensorBoard files and, while it is under way, `last.ckpt`, from which `resume=True` goes on.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from oculi import catalogue
from oculi.catalogue import BadRecipe, Recipe, nearest
from oculi.data.datasets import Splits, channel_statistics
from oculi.data.sources import open_data
from oculi.system import BadCheckpoint, System, load, replacing, save

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows
    flock = None  # type: ignore[assignment]

CACHE = Path("runs/cache")


@dataclass
class Run:
    """A trained system with its data, as its contract prepares them, and the folder that keeps it."""

    system: System
    splits: Splits
    recipe: Recipe
    folder: Path | None


def system_class(recipe: Recipe) -> type:
    """The class that the recipe's one dotted path names."""
    return getattr(import_module(recipe.system.rpartition(".")[0]), recipe.class_name)


def build(name: str | Recipe, tiny: bool = False, **arguments: Any) -> Any:
    """A new system (or method) with its recipe's arguments, or the recipe's tiny ones; `arguments` override them."""
    recipe = catalogue.recipe(name) if isinstance(name, str) else name
    chosen = recipe.with_overrides({f"arguments.{key}": value for key, value in arguments.items()})
    values = {**recipe.tiny, **arguments} if tiny else chosen.arguments
    return system_class(recipe)(**values)


def training_options(recipe: Recipe) -> Any:
    """The recipe's `training:` as a Training record. Raises BadRecipe for an unknown key."""
    from oculi.learn.learner import Training

    known = {f.name for f in fields(Training)}
    for key in recipe.training:
        if key not in known:
            raise BadRecipe(f"{recipe.id}: training has no {key}{nearest(key, known)}")
    try:
        return Training(**recipe.training)
    except ValueError as error:
        raise BadRecipe(f"{recipe.id}: training.{error}") from None


def open_splits(recipe: Recipe, system: System) -> Splits:
    """The recipe's data as the system's contract prepares them."""
    options = dict(recipe.data)
    if "name" not in options:
        raise BadRecipe(f"{recipe.id}: data has no name")
    splits = open_data(options.pop("name"), **options)
    return splits if splits.environment is not None else splits.prepared(system.contract)


def train(
    name: str | Recipe,
    folder: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: bool = True,
    splits: Splits | None = None,
    mlflow: str | None = None,
    devices: int = 1,
    callbacks: list[Any] | None = None,
) -> Run:
    """Train by recipe. `splits` replaces the recipe's data; `overrides` its keys, as {"training.lr": 0.01}; `callbacks`
    are Lightning's, as the training doctor is one.

    Raises BadRecipe, BadData or BadCheckpoint before anything is written, FolderInUse when another run writes there,
    Diverged when the loss is no longer a number.
    """
    recipe = catalogue.recipe(name) if isinstance(name, str) else name
    recipe = shaped_by_weights(recipe, overrides or {}).with_overrides(overrides or {})
    target = Path(folder) if folder is not None else None
    with nullcontext() if target is None else only_writer(target):
        return _train(recipe, target, resume, progress, splits, mlflow, devices, callbacks)


def _train(
    recipe: Recipe,
    target: Path | None,
    resume: bool,
    progress: bool,
    splits: Splits | None = None,
    mlflow: str | None = None,
    devices: int = 1,
    callbacks: list[Any] | None = None,
) -> Run:
    from oculi.learn.learner import fit, seed_everything

    options = training_options(recipe)
    seed_everything(options.seed)
    system = build(recipe)
    if splits is None:
        splits = open_splits(recipe, system)
    else:
        splits = splits if splits.environment is not None else splits.prepared(system.contract)
    _introduce(system, splits)
    _start_from(system, recipe, progress)
    if target is not None:
        with replacing(target / "recipe.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(asdict(recipe), sort_keys=False), encoding="utf-8")
    if system.can("loss") and options.steps > 0:
        fit(system, options, splits, target, resume, progress, callbacks=callbacks, mlflow=mlflow, devices=devices)
    if system.can("fit"):
        from oculi.data.datasets import batches

        system.fit(batches(splits.train, options.batch_size))
    system.eval()
    if target is not None:
        save(system, target)
    return Run(system, splits, recipe, target)


class FolderInUse(ValueError):
    """Another run is writing into the folder."""


@contextmanager
def only_writer(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold the folder, made if need be, against every other run; a run that dies lets go of it.

    Raises FolderInUse when another run holds it, unless told to wait. Where the system has no file locks it does nothing.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    if (
        flock is None or os.environ.get("LOCAL_RANK", "0") != "0"
    ):  # helpers of a run on several devices share its folder
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        flock(handle, LOCK_EX if wait else LOCK_EX | LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise FolderInUse(f"{folder}: another run is writing there") from None
    try:
        yield
    finally:
        os.close(handle)
        for path in made:
            with suppress(OSError):
                path.rmdir()


def _introduce(system: System, splits: Splits) -> None:
    """Tell the system the classes' names and the training data's statistics. Raises ValueError when they do not fit."""
    expected = system.config.get("num_classes")
    if splits.class_names is not None:
        if expected and expected != len(splits.class_names):
            raise ValueError(f"num_classes: the data has {len(splits.class_names)} classes, the system {expected}")
        system.class_names = list(splits.class_names)
    if splits.environment is None and splits.train[0].image is not None:
        system.set_statistics(*channel_statistics(splits.train))


def source_recipe(recipe: Recipe) -> list[Recipe]:
    """The recipe that it starts from, `init_from` with the overrides `init_with`; none where it starts afresh or from
    weights that lie somewhere."""
    name, overrides = recipe.training.get("init_from"), recipe.training.get("init_with", {})
    return [catalogue.recipe(name).with_overrides(overrides)] if name and not _lies_somewhere(name) else []


def shaped_by_weights(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe with the arguments of the weights that it is to start from, where these are of its own system."""
    name = overrides.get("training.init_from", recipe.training.get("init_from", ""))
    if not _lies_somewhere(name):
        return recipe
    source = _weights(name)
    return replace(recipe, arguments=source.config) if type(source) is system_class(recipe) else recipe


def _lies_somewhere(name: str) -> bool:
    """Whether it is a folder, a file or a published name, as `oculi.load` takes them, and no recipe's."""
    return "/" in name or (name not in ("", *catalogue.names()) and Path(name).exists())


def _weights(name: str) -> System:
    from oculi.hub.loading import load as load_any

    return load_any(name)


def _start_from(system: System, recipe: Recipe, progress: bool) -> None:
    name = recipe.training.get("init_from", "")
    if not name:
        return
    source = _weights(name) if _lies_somewhere(name) else cached(source_recipe(recipe)[0], progress).system
    try:
        system.adopt(source)
    except ValueError as error:
        raise BadRecipe(
            f"init_from: {name}'s weights do not fit ({error}); --training.init_from '' starts afresh"
        ) from None


def fingerprint(recipe: Recipe) -> str:
    """A hash of the recipe, of its system's source and of what it starts from: the key of the cache."""
    content = {k: v for k, v in asdict(recipe).items() if k in ("system", "arguments", "data", "training")}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    digest.update(inspect.getsource(system_class(recipe)).encode())
    for need in recipe.needs:
        digest.update(fingerprint(catalogue.recipe(need)).encode())
    return digest.hexdigest()[:12]


def cache_folder(recipe: Recipe) -> Path:
    """Where `runs/cache` keeps the run of this recipe."""
    return CACHE / f"{recipe.id}-{fingerprint(recipe)}"


def cached(name: str | Recipe, progress: bool = True) -> Run:
    """The run of a recipe from `runs/cache`, trained first if it is not there (or is broken)."""
    recipe = catalogue.recipe(name) if isinstance(name, str) else name
    folder = cache_folder(recipe)
    with only_writer(folder, wait=True):  # who comes second finds it trained
        try:
            system = load(folder, system_class(recipe))
        except BadCheckpoint:
            return _train(recipe, folder, resume=True, progress=progress)
    return Run(system, open_splits(recipe, system), recipe, folder)
