"""The verbs of the command line. Their signatures and docstrings are the options and the help."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from oculi import catalogue
from oculi.catalogue import BadRecipe, Recipe
from oculi.cli.stubs import RECIPE_STUB, STUB

Overrides = dict[str, Any]


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
        Path(f"src/oculi/{family}/{name}.py"): STUB.format(title=title),
        Path(f"src/oculi/recipes/{family}/{name}.yaml"): RECIPE_STUB.format(family=family, name=name, title=title),
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
    system: str, folder: str | None = None, data: str | None = None, resume: bool = False, mlflow: str | None = None,
    doctor: bool = False, json: bool = False, overrides: Overrides | None = None,
) -> Any:  # fmt: skip
    """Train a system by its recipe and score it on its test data.

    Args:
        system: its name
        folder: where the run is kept; runs/<system> by default
        data: your own (a COCO, VOC or YOLO folder or file, a folder per class, PNG masks) in place of the recipe's
        resume: go on from the folder's last checkpoint
        mlflow: a tracking address, as sqlite:///runs.db
        doctor: watch the run, for `oculi doctor`
        json: print JSON
    """
    from oculi.learn.evaluation import evaluate as scores_of
    from oculi.learn.training import train as run_training

    target = folder or f"runs/{system}"
    callbacks = []
    if doctor:
        from oculi.learn.training_doctor import TrainingDoctor

        callbacks.append(TrainingDoctor())
    splits = None
    if data:
        from oculi.learn.own_data import on_own_data

        overrides, splits = on_own_data(catalogue.recipe(system), data, overrides or {})
    run = run_training(system, target, overrides, resume, not json, splits, mlflow, callbacks=callbacks)
    return {"folder": target, **scores_of(run.system, run.splits, run.recipe.protocol)}


def evaluate(
    folder: str, data: str | None = None, split: str = "test", json: bool = False, overrides: Overrides | None = None
) -> Any:
    """Score a trained system on the data of its recipe.

    Args:
        folder: a run's folder
        data: your own in place of the recipe's, as `train` takes it
        split: train, validation or test
        json: print JSON
    """
    from oculi.learn.evaluation import evaluate as scores_of
    from oculi.learn.training import open_splits

    system, recipe = _load(folder), _recipe_of(folder)
    if data:
        from oculi.learn.own_data import data_options, same_classes

        recipe = recipe.with_overrides(data_options(recipe, data, overrides or {}))
        splits = same_classes(recipe, system.class_names, open_splits(recipe, system))
        return scores_of(system, splits, recipe.protocol, split)
    recipe = recipe.with_overrides(overrides or {})
    return scores_of(system, open_splits(recipe, system), recipe.protocol, split)


def predict(folder: str, pictures: list[str], out: str | None = None, json: bool = False) -> Any:
    """Answer about pictures.

    Args:
        folder: a run's folder
        pictures: paths of pictures, or of folders that hold some
        out: a folder to draw the answers into
        json: print JSON
    """
    from oculi.data.formats.pictures import pictures_in
    from oculi.system import predict as answer

    system = _able(folder, "predict")
    pictures = [file for path in pictures for file in ([str(p) for p in pictures_in(Path(path))] or [path])]
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
        raise FellShort("; ".join(short), rows)
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
        raise FellShort(f"drift: {report.worst} moved most, p = {report.p_value:.2g}", shown)
    return shown


def inspect(system: str, size: int | None = None, json: bool = False) -> Any:
    """Show what each layer of a network gives, sees and costs, for one picture.

    Args:
        system: its name, a run's folder, or published weights as timm/resnet50.a1_in1k
        size: side of the picture; the network's own by default
        json: print JSON
    """
    from oculi.learn.inspection import inspect as inspection_of
    from oculi.learn.training import build

    network = build(system) if system in catalogue.names() else _load(system)
    found = inspection_of(network, size)
    return found.to_dict() if json else found.table()


def doctor(folder: str, json: bool = False) -> Any:
    """Name what is wrong with a run; exits with 1 when something is.

    Args:
        folder: of a run; one that was trained with --doctor says more than its curve does
        json: print JSON
    """
    from oculi.learn.diagnosis import diagnose

    findings = diagnose(folder)
    if not findings:
        return {"findings": []} if json else "nothing is wrong"
    shown = {"findings": [vars(finding) for finding in findings]} if json else "\n".join(map(str, findings))
    raise FellShort(f"{folder}: {', '.join(finding.cause.replace('_', ' ') for finding in findings)}", shown)


def convert(source: str, out: str, to: str = "coco", repair: bool = False, json: bool = False) -> Any:
    """Write data of any format that is recognised in another one, and tell what is lost.

    Args:
        source: a file or folder, as `train --data` takes it
        out: the folder to write; a new or empty one
        to: coco, voc, yolo, semantic_png or panoptic_png
        repair: leave out what is wrong
        json: print JSON
    """
    from oculi.data.conversion import convert as convert_data

    pictures, lost = convert_data(source, out, to, repair)
    return {"written": out, "pictures": pictures, "lost": lost if json else "; ".join(lost) or "nothing"}


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
    """A recipe did not reach its score, or pictures have drifted; `found` is what the verb would have returned."""

    def __init__(self, message: str, found: Any):
        super().__init__(message)
        self.found = found


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
    "inspect": inspect,
    "doctor": doctor,
    "convert": convert,
    "demo": demo,
}


def _load(folder: str) -> Any:
    from oculi.hub.loading import load

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
