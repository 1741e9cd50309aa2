r"""The catalogue: the folder of recipes, one flat YAML file per system. Reading it needs no torch.

    recipe = catalogue.recipe("resnet")
    recipe.with_overrides({"training.steps": 50})

A misspelt key, argument or name is an error that names the nearest right one.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

RECIPES = Path(__file__).parent / "recipes"
PACKAGE = Path(__file__).parent
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where libyaml is there


class BadRecipe(ValueError):
    """A recipe or an override that cannot be right; the message says what would be."""


@dataclass(frozen=True)
class Recipe:
    """What a recipe file says. `id` and `family` come from its place; see `oculi show` for each field in use."""

    id: str
    family: str
    title: str
    summary: str
    paper: str
    system: str  # the one dotted path
    oracle: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    experiment: dict[str, Any] | None = None  # arguments of `experiment` in the system's file, for what is not trained
    protocol: str = ""  # how it is scored; by its answer kind where empty
    baseline: dict[str, Any] = field(default_factory=dict)  # arguments (or section.key) that make it what it must beat
    seeds: int = 1  # trainings that the figures are the mean of, from the training's seed on
    score: dict[str, str] = field(default_factory=dict)  # metric: ">= 0.985"
    minutes: float = 5.0
    parts: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    tiny: dict[str, Any] = field(default_factory=dict)
    cannot: dict[str, str] = field(default_factory=dict)

    @property
    def class_name(self) -> str:
        """The last word of the dotted path."""
        return self.system.rpartition(".")[2]

    @property
    def source(self) -> Path:
        """The one file to read."""
        return PACKAGE.joinpath(*self.system.split(".")[1:-1]).with_suffix(".py")

    def with_overrides(self, overrides: Mapping[str, Any]) -> Recipe:
        """A copy with `section.key` set for each override, checked against what the section may hold.

        Another `data.name` is another source, which knows nothing of the options of the recipe's own.
        """
        sections: dict[str, Any] = {}
        if overrides.get("data.name", self.data.get("name")) != self.data.get("name"):
            sections["data"] = {}
        for dotted, value in overrides.items():
            section, _, key = dotted.partition(".")
            if section not in ("arguments", "data", "training", "experiment") or not key:
                known = "arguments.KEY, data.KEY, training.KEY or experiment.KEY"
                raise BadRecipe(f"{dotted}: expected {known}")
            sections.setdefault(section, dict(getattr(self, section) or {}))[key] = value
        changed = replace(self, **sections)
        check_arguments(changed)
        return changed


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint: `; did you mean X?` or the choices.

    >>> nearest("resnt", ["resnet", "vit"])
    '; did you mean resnet?'
    """
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(choices)}"


@cache
def names() -> dict[str, Path]:
    """Every system's id and the path of its recipe, by family and name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*/*.yaml"))}


def families() -> dict[str, list[str]]:
    """The ids of each family."""
    grouped: dict[str, list[str]] = {}
    for name, path in names().items():
        grouped.setdefault(path.parent.name, []).append(name)
    return grouped


def headlines() -> list[dict[str, str]]:
    """Id, family, title and summary of every system, from the lines above `paper:` alone, so that listing stays quick."""
    found = []
    for name, path in names().items():
        with path.open(encoding="utf-8") as lines:
            head = yaml.load("".join(takewhile(lambda line: not line.startswith("paper:"), lines)), Loader=_Loader)
        found.append({"id": name, "family": path.parent.name, "title": head["title"], "summary": head["summary"]})
    return found


def recipe(name: str) -> Recipe:
    """The recipe called `name`. Raises BadRecipe with the nearest name when there is none."""
    if name not in names():
        raise BadRecipe(f"{name}: no such system{nearest(name, names())}")
    return read_recipe(names()[name])


def recipes() -> list[Recipe]:
    """All of them, by family and name."""
    return [read_recipe(path) for path in names().values()]


@cache
def read_recipe(path: Path) -> Recipe:
    """Read and check one recipe file."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise BadRecipe(f"{path.name}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise BadRecipe(f"{path.name}: expected keys and values, got {type(content).__name__}")
    allowed = {f.name: f for f in fields(Recipe) if f.name not in ("id", "family")}
    for key in content:
        if key not in allowed:
            raise BadRecipe(f"{path.name}: unknown key {key}{nearest(key, allowed)}")
    required = [n for n, f in allowed.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in required if not content.get(name)]
    if missing:
        raise BadRecipe(f"{path.name}: {', '.join(missing)} missing")
    made = Recipe(id=path.stem, family=path.parent.name, **content)
    check_arguments(made)
    return made


def check_arguments(made: Recipe) -> None:
    """Raise BadRecipe when arguments, tiny or baseline hold a word that the constructor does not know."""
    known = signature(made)
    for section in ("arguments", "tiny", "baseline"):
        for key in getattr(made, section):
            if key not in known and not (section == "baseline" and "." in key):
                raise BadRecipe(f"{made.id}: {made.class_name} has no argument {key} ({section}){nearest(key, known)}")


def signature(made: Recipe, function: str = "__init__") -> dict[str, str]:
    """Arguments of the constructor (or of a function of the module) and their defaults as source text, without import.

    A dataclass has its fields.
    """
    tree = _parsed(made.source)
    body = tree.body
    if function == "__init__":
        body = next((n.body for n in body if isinstance(n, ast.ClassDef) and n.name == made.class_name), [])
        if not body:
            raise BadRecipe(f"{made.id}: {made.source.name} has no class {made.class_name}")
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            listed = [a for a in node.args.args + node.args.kwonlyargs if a.arg != "self"]
            defaults = [*node.args.defaults, *node.args.kw_defaults]
            padded = [None] * (len(listed) - len(defaults)) + defaults
            return {a.arg: "required" if d is None else ast.unparse(d) for a, d in zip(listed, padded, strict=True)}
    return {
        node.target.id: "required" if node.value is None else ast.unparse(node.value)
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def docstring(made: Recipe) -> str:
    """The file's docstring: the idea, the equations, the citation."""
    return ast.get_docstring(_parsed(made.source)) or ""


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
