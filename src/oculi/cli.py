r"""The command line: one verb per function below; their signatures and docstrings are the options and the help.

A recipe's keys can be set on any verb that builds or trains: `--training.lr 0.01 --arguments.width 32 --data.path photos`.
Bad input prints one line and exits with 2; `--debug` shows the traceback.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from oculi import __version__, catalogue
from oculi.catalogue import BadRecipe, Recipe

Overrides = dict[str, Any]
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


def list_systems(family: str | None = None, json: bool = False) -> Any:
    """List every system of the catalogue.

    Args:
        family: only this family
        json: print JSON
    """
    found = [r for r in catalogue.headlines() if family in (None, r["family"])]
    if not found:
        raise BadRecipe(f"{family}: no such family{catalogue.nearest(str(family), catalogue.families())}")
    if json:
        return found
    width = max(len(r["id"]) for r in found)
    return "\n".join(f"{r['family']:12} {r['id']:{width}}  {r['summary']}" for r in found)


def show(system: str, json: bool = False) -> Any:
    """Show a system's five places: file, recipe, parity test, result and what its docstring says.

    Args:
        system: its name, as `oculi list` gives it
        json: print JSON
    """
    recipe = catalogue.recipe(system)
    result = _result(recipe)
    if json:
        described = {"id": recipe.id, "system": recipe.system, "arguments": catalogue.signature(recipe)}
        return {**described, "recipe": str(catalogue.names()[system]), "source": str(recipe.source), "result": result}
    lines = [f"{recipe.title}: {recipe.summary}", f"paper    {recipe.paper}", f"file     {recipe.source}"]
    lines += [f"recipe   {catalogue.names()[system]}", f"oracle   {recipe.oracle or 'none'}"]
    lines += [f"test     tests/parity/{recipe.family}/test_{recipe.id}.py"]
    lines += [f"score    {', '.join(f'{k} {v}' for k, v in recipe.score.items())}"]
    lines += [f"result   {_figures(result) if result else 'not run here'}"]
    lines += [f"cannot   {verb}: {reason}" for verb, reason in recipe.cannot.items()]
    lines += ["arguments"] + [f"    {key} = {value}" for key, value in catalogue.signature(recipe).items()]
    return "\n".join([*lines, "", catalogue.docstring(recipe)])


def new(place: str) -> Any:
    """Write the stubs of a new system: its file, its recipe and its parity test.

    Args:
        place: family and name, as detect/my_system; run it at the repository's root
    """
    family, _, name = place.partition("/")
    if not (family.isidentifier() and name.isidentifier() and name == name.lower()):
        raise BadRecipe(f"{place}: expected family/name in lower case, as detect/my_system")
    if not Path("src/oculi").is_dir():
        raise BadRecipe("src/oculi: no such folder; run `oculi new` at the root of a clone")
    title = "".join(word.capitalize() for word in name.split("_"))
    files = {
        Path(f"src/oculi/{family}/{name}.py"): _STUB.format(title=title),
        Path(f"src/oculi/recipes/{family}/{name}.yaml"): _RECIPE_STUB.format(family=family, name=name, title=title),
        Path(f"tests/parity/{family}/test_{name}.py"): f'"""{title} against its oracle."""\n',
    }
    there = [str(path) for path in files if path.exists()]
    if there:
        raise BadRecipe(f"{there[0]}: exists already")
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return "\n".join(map(str, files))


def train(
    system: str, folder: str | None = None, resume: bool = False, mlflow: str | None = None, json: bool = False,
    overrides: Overrides | None = None,
) -> Any:  # fmt: skip
    """Train a system by its recipe and score it on its test data.

    Args:
        system: its name
        folder: where the run is kept; runs/<system> by default
        resume: go on from the folder's last checkpoint
        mlflow: a tracking address, as sqlite:///runs.db
        json: print JSON
    """
    from oculi.learn.evaluation import evaluate as scores_of
    from oculi.learn.training import train as run_training

    target = folder or f"runs/{system}"
    run = run_training(system, target, overrides, resume=resume, progress=not json, mlflow=mlflow)
    return {"folder": target, **scores_of(run.system, run.splits, run.recipe.protocol)}


def evaluate(folder: str, split: str = "test", json: bool = False, overrides: Overrides | None = None) -> Any:
    """Score a trained system on the data of its recipe.

    Args:
        folder: a run's folder
        split: train, validation or test
        json: print JSON
    """
    from oculi.learn.evaluation import evaluate as scores_of
    from oculi.learn.training import open_splits

    system, recipe = _load(folder), _recipe_of(folder).with_overrides(overrides or {})
    return scores_of(system, open_splits(recipe, system), recipe.protocol, split)


def predict(folder: str, pictures: list[str], out: str | None = None, json: bool = False) -> Any:
    """Answer about pictures.

    Args:
        folder: a run's folder
        pictures: paths of pictures
        out: a folder to draw the answers into
        json: print JSON
    """
    from oculi.system import predict as answer

    system = _able(folder, "predict")
    answers = answer(system, list(pictures))
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        for path, prediction in zip(pictures, answers, strict=True):
            prediction.plot(system.contract.prepare(path)).save(Path(out) / f"{Path(path).stem}.png")
    return [{"picture": path, **found.to_dict()} for path, found in zip(pictures, answers, strict=True)]


def sample(folder: str, n: int = 16, out: str = "samples.png", seed: int = 0, json: bool = False) -> Any:
    """Draw new images from a generative system.

    Args:
        folder: a run's folder
        n: how many
        out: the picture that shows them
        seed: of the random numbers
        json: print JSON
    """
    import torch

    from oculi.system import evaluating

    system = _load(folder)
    with evaluating(system):
        system.sample(n, torch.Generator().manual_seed(seed)).plot().save(out)
    return {"written": out, "images": n}


def render(folder: str, out: str = "views.png", json: bool = False) -> Any:
    """Render the test cameras of a radiance field.

    Args:
        folder: a run's folder
        out: the picture that shows the views
        json: print JSON
    """
    from oculi.learn.training import open_splits
    from oculi.system import evaluating
    from oculi.types import Batch

    system, recipe = _load(folder), _recipe_of(folder)
    splits = open_splits(recipe, system)
    batch = Batch.of([splits.test[i] for i in range(min(8, len(splits.test)))])
    if batch.camera is None:
        raise BadRecipe(f"{recipe.id}: its data has no cameras to render")
    with evaluating(system):
        system.render(batch.camera).plot().save(out)
    return {"written": out, "views": len(batch)}


def reproduce(systems: list[str] | None = None, all: bool = False, results: str = "results", json: bool = False) -> Any:
    """Run recipes to their scores and write the figures; exits with 1 when one falls short.

    Args:
        systems: names
        all: every system of the catalogue
        results: the folder of the figures
        json: print JSON
    """
    from oculi.learn.reproduction import reproduce as run_recipe

    chosen = list(catalogue.names()) if all else list(systems or [])
    if not chosen:
        raise BadRecipe("systems: expected at least one name, or --all")
    for name in chosen:
        catalogue.recipe(name)
    rows, short = [], []
    for name in chosen:
        result = run_recipe(name, results, progress=not json)
        rows.append({"system": name, "reached": result.reached, "minutes": round(result.minutes, 2), **result.figures})
        short += [f"{name}: {failure}" for failure in result.failed]
    if short:
        print(_text(rows) if not json else _json(rows))
        raise FellShort("; ".join(short))
    return rows


def explain(folder: str, picture: str, out: str = "explained.png", json: bool = False) -> Any:
    """Show where a classifier looks (Grad-CAM).

    Args:
        folder: a run's folder
        picture: path of a picture
        out: the picture that shows it
        json: print JSON
    """
    from oculi.explain.grad_cam import GradCAM, overlay

    system = _able(folder, "explain")
    image = system.contract.batch([picture])
    overlay(image[0], GradCAM()(system, image)[0]).save(out)
    return {"written": out}


def attack(folder: str, method: str = "fgsm", eps: float = 8 / 255, json: bool = False) -> Any:
    """Attack a trained system on its test data.

    Args:
        folder: a run's folder
        method: fgsm or pgd
        eps: largest change of a pixel, of the range 0 to 1
        json: print JSON
    """
    from dataclasses import replace

    from oculi.data.datasets import batches
    from oculi.learn.evaluation import evaluate as scores_of
    from oculi.learn.training import open_splits
    from oculi.robust.fgsm import FGSM
    from oculi.robust.pgd import PGD

    methods: dict[str, Any] = {"fgsm": FGSM(eps), "pgd": PGD(eps, step=eps / 4)}
    if method not in methods:
        raise BadRecipe(f"method: no attack called {method}{catalogue.nearest(method, methods)}")
    system, recipe = _able(folder, "attack"), _recipe_of(folder)
    splits = open_splits(recipe, system)
    changed = []
    for batch in batches(splits.test, 128):
        adversarial = replace(batch, image=methods[method](system, batch))
        changed += [adversarial[i] for i in range(len(batch))]
    before = scores_of(system, splits, recipe.protocol)
    after = scores_of(system, replace(splits, test=changed), recipe.protocol)
    return {key: {"clean": value, "attacked": after[key]} for key, value in before.items()}


def compress(folder: str, out: str, bits: int = 8, json: bool = False) -> Any:
    """Quantise a trained system after training, calibrated on its training data.

    Args:
        folder: a run's folder
        out: the folder of the small system
        bits: of the weights
        json: print JSON
    """
    from oculi.compress.post_training_quantization import PostTrainingQuantization, save_quantized, size
    from oculi.data.datasets import batches
    from oculi.learn.evaluation import evaluate as scores_of
    from oculi.learn.training import open_splits
    from oculi.types import take

    system, recipe = _able(folder, "compress"), _recipe_of(folder)
    splits = open_splits(recipe, system)
    small = PostTrainingQuantization(bits)(system, take(batches(splits.train, 64), 4))
    save_quantized(small, out)
    before, after = (scores_of(s, splits, recipe.protocol) for s in (system, small))
    compared = {key: {"before": value, "after": after[key]} for key, value in before.items()}
    return {"bytes": {"before": size(system), "after": size(small)}, **compared}


def export(folder: str, out: str = "model.onnx", json: bool = False) -> Any:
    """Export to ONNX; the file is only written when it decides as torch does.

    Args:
        folder: a run's folder
        out: the file
        json: print JSON
    """
    from oculi.serve.onnx_export import export as export_onnx

    return vars(export_onnx(_able(folder, "export"), out))


def serve(
    folder: str, host: str = "127.0.0.1", port: int = 8000, token: str | None = None, name: str = "model",
    no_token: bool = False,
) -> Any:  # fmt: skip
    """Answer over HTTP until interrupted; the address and a fresh token are printed once.

    What was accepted is answered before it ends, with 0 on SIGINT and by the signal itself on SIGTERM.

    Args:
        folder: a run's folder, or that of a saved system
        host: only this machine reaches the default
        port: where; 0 is any free one
        token: at least 8 characters, in place of a fresh one that is shown
        name: of the model in the addresses
        no_token: ask for none; on this machine alone
    """
    from oculi.serve.server import serve as serve_system

    serve_system(_able(folder, "serve"), host, port, token, name, auth=not no_token)
    return ""


def monitor(
    folder: str, data: str, rate: float = 0.01, out: str | None = None, renew: bool = False, json: bool = False
) -> Any:
    """Compare new pictures with the run's reference; exits with 1 when they have drifted.

    Args:
        folder: a run's folder; its reference is made of its validation and test data at the first call
        data: a folder of pictures, or a source's name
        rate: the share of calls without drift that raise the alarm
        out: a picture of what moved
        renew: make the reference anew
        json: print JSON
    """
    from oculi.learn.training import open_splits
    from oculi.monitor.runs import compare

    system = _able(folder, "monitor")
    report = compare(folder, system, data, open_splits(_recipe_of(folder), system), rate, renew)
    if out:
        report.plot().save(out)
    shown = report.to_dict()
    if not json:
        moved = list(shown.pop("features").items())[:10]
        shown |= {name: ", ".join(f"{k} {v:.3g}" for k, v in f.items()) for name, f in moved}
    if report.alarm:
        print(_json(shown) if json else _text(shown))
        raise FellShort(f"drift: {report.worst} moved most, p = {report.p_value:.2g}")
    return shown


def demo(folder: str = "runs/demo", steps: int = 400, detector_steps: int = 700) -> Any:
    """Take real digits and generated scenes through the whole life of a vision system, in minutes.

    Args:
        folder: where report.html goes
        steps: of the classifier's training
        detector_steps: of the detector's training
    """
    from oculi.flywheel.demo import demo as run_demo

    run_demo(folder, steps, detector_steps)
    return ""


class FellShort(Exception):
    """A recipe did not reach its score, or pictures have drifted."""


VERBS: dict[str, Callable[..., Any]] = {
    "list": list_systems,
    "show": show,
    "new": new,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "sample": sample,
    "render": render,
    "reproduce": reproduce,
    "explain": explain,
    "attack": attack,
    "compress": compress,
    "export": export,
    "serve": serve,
    "monitor": monitor,
    "demo": demo,
}


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


def _load(folder: str) -> Any:
    from oculi.system import load

    return load(folder)


def _able(folder: str, verb: str) -> Any:
    """The folder's system, unless it cannot do that; a folder without a recipe is not asked."""
    from oculi.learn.verbs import require

    if (Path(folder) / "recipe.yaml").is_file():
        require(_recipe_of(folder), verb)
    return _load(folder)


def _recipe_of(folder: str) -> Recipe:
    path = Path(folder) / "recipe.yaml"
    if not path.is_file():
        raise BadRecipe(f"{path}: no such file; is {folder} the folder of a run?")
    return Recipe(**yaml.safe_load(path.read_text(encoding="utf-8")))


def _result(recipe: Recipe) -> dict[str, Any] | None:
    path = Path("results") / recipe.family / f"{recipe.id}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _figures(result: dict[str, Any]) -> str:
    return ", ".join(f"{key} {result['figures'][key]:.4g}" for key in result["score"]) + f" in {result['minutes']} min"


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


_STUB = '''r"""{title}: the idea in the field's words.

    equations, shapes, units

Author: Title, year, arXiv.
"""

from oculi.input_contract import InputContract
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses


class {title}(System):
    """What it is."""

    answer = Classes

    def __init__(self, num_classes: int = 10, image_size: int = 64):
        super().__init__(InputContract(image_size, image_size))

    def loss(self, batch: Batch) -> Losses:
        raise NotImplementedError

    def predict(self, batch: Batch) -> list[Classes]:
        raise NotImplementedError
'''
_RECIPE_STUB = """title: {title}
summary: One line.
paper: Author year, arXiv
system: oculi.{family}.{name}.{title}
arguments: {{num_classes: 10}}
data: {{name: digits}}
training: {{steps: 1000}}
score: {{accuracy: ">= 0.9"}}
tiny: {{num_classes: 10, image_size: 16}}
"""

if __name__ == "__main__":
    sys.exit(main())
