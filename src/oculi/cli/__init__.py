r"""The command line: one verb per function of `verbs`; their signatures and docstrings are the options and the help.

A recipe's keys can be set on any verb that builds or trains: `--training.lr 0.01 --arguments.width 32 --data.path photos`.
Bad input prints one line and exits with 2; `--debug` shows the traceback.
"""

import json
import re
import sys
from collections.abc import Sequence
from inspect import signature
from typing import Any

import yaml

from oculi import __version__, catalogue
from oculi.catalogue import BadRecipe
from oculi.cli.verbs import VERBS, FellShort, Overrides

_EXTRAS = {  # the modules that each extra of pyproject.toml brings
    "train": ("pytorch_lightning", "torchmetrics", "tensorboardX"),
    "science": ("scipy", "skimage", "sklearn"),
    "serve": ("fastapi", "uvicorn", "multipart", "prometheus_client"),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "track": ("mlflow", "sqlalchemy", "alembic"),
    "hub": ("huggingface_hub",),
    "rl": ("gymnasium",),
    "plot": ("matplotlib",),
}
_SECTIONS = ("--arguments.", "--data.", "--training.", "--experiment.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 (a score was not reached, drift), 2 (bad input) or 130 (interrupted)."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        words, overrides = split_overrides(words)
        verb, options = parse(words, bool(overrides))
        if overrides:
            options["overrides"] = overrides
        result = VERBS[verb](**options)
        if result != "":
            print(_json(result) if options.get("json") else _text(result))
        return 0
    except KeyboardInterrupt:
        print("oculi: interrupted; `--resume` goes on from the last checkpoint", file=sys.stderr)
        return 130
    except FellShort as error:
        print(_json(error.found) if options.get("json") else _text(error.found))
        print(f"oculi: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        extra = next((e for e, modules in _EXTRAS.items() if (error.name or "").partition(".")[0] in modules), None)
        if debug or extra is None:
            raise
        print(f"oculi: {error.name} is not installed: pip install 'oculi[{extra}]' (or oculi[all])", file=sys.stderr)
        return 2
    except (ValueError, OSError, RuntimeError, NotImplementedError) as error:
        if debug:
            raise
        print(f"oculi: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def parse(words: list[str], overridden: bool) -> tuple[str, dict[str, Any]]:
    """The verb and its options. Exits with help, or with 2 for an unknown option."""
    if not words or words[0] in ("-h", "--help", "--version"):
        print(f"oculi {__version__}" if words == ["--version"] else _overview())
        sys.exit(0)
    verb, *rest = words
    if verb not in VERBS:
        raise BadRecipe(f"{verb}: no such verb{catalogue.nearest(verb, VERBS)}")
    from jsonargparse import ArgumentParser  # a quarter of a second, so after what needs none

    function = VERBS[verb]
    lines = (function.__doc__ or "").splitlines()
    epilog = _epilog(rest) if "overrides" in signature(function).parameters else ""
    parser = ArgumentParser(prog=f"oculi {verb}", description=lines[0], epilog=epilog)
    told = dict(line.strip().split(": ", 1) for line in lines if re.match(r" {8}\w+: ", line))
    for name, argument in signature(function).parameters.items():
        if argument.annotation is bool:
            parser.add_argument(f"--{name}", action="store_true", help=told[name])
        elif argument.default is argument.empty:
            parser.add_argument(name, type=argument.annotation, help=told[name])
        elif name != "overrides":
            parser.add_argument(f"--{name}", type=argument.annotation, default=argument.default, help=told[name])
    parsed = parser.parse_args(_with_lists(words)[1:])
    if overridden and not epilog:
        raise BadRecipe(f"{verb}: it takes no recipe keys")
    return verb, dict(vars(parsed))


def _overview() -> str:
    lines = [f"    {name:10} {(function.__doc__ or '').splitlines()[0]}" for name, function in VERBS.items()]
    about = "usage: oculi VERB [options]\n\nEvery vision system, from data to production."
    return "\n".join([about, "", *lines, "", "`oculi VERB --help` explains a verb; --debug shows tracebacks."])


def _with_lists(words: list[str]) -> list[str]:
    """`predict FOLDER a.png b.png` and `reproduce a b`: the last positional takes what is left, as one JSON list."""
    first = {"predict": 2, "reproduce": 1}.get(words[0] if words else "")
    if first is None or "--help" in words or "-h" in words:
        return words
    end = next((i for i, word in enumerate(words) if i >= first and word.startswith("-")), len(words))
    rest = words[first:end]
    head = ["--systems=" + json.dumps(rest)] if words[0] == "reproduce" and rest else [json.dumps(rest)] if rest else []
    return [*words[:first], *head, *words[end:]]


def _epilog(words: list[str]) -> str:
    """The keys of the recipe that is being asked about."""
    name = next((word for word in words if word in catalogue.names()), None)
    if name is None:
        return "Recipe keys: --arguments.KEY, --data.KEY, --training.KEY VALUE; name a system to see its own."
    recipe = catalogue.recipe(name)
    known: dict[str, Any] = {f"arguments.{k}": v for k, v in catalogue.signature(recipe).items()}
    known |= {f"arguments.{k}": v for k, v in recipe.arguments.items()}
    known |= {f"{s}.{k}": v for s in ("data", "training") for k, v in getattr(recipe, s).items()}
    return "Recipe keys and values: " + ", ".join(f"--{key} {value}" for key, value in known.items())


def split_overrides(words: list[str]) -> tuple[list[str], Overrides]:
    """Take `--section.key value` out of the words; values are YAML."""
    rest, found = [], {}
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not word.startswith(_SECTIONS):
            rest.append(word)
            continue
        key, equals, value = word[2:].partition("=")
        if not equals:
            if position == len(words):
                raise BadRecipe(f"--{key}: a value is missing")
            value = words[position]
            position += 1
        found[key] = yaml.safe_load(value)
    return rest, found


def _json(value: Any) -> str:
    return json.dumps(value, indent=2)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        width = max(map(len, value), default=0)
        return "\n".join(f"{key:{width}}  {_short(item)}" for key, item in value.items())
    return "\n\n".join(_text(item) for item in value)


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) < 100 else text[:97] + "..."
