r"""`oculi demo`: the life of two vision systems, a classifier of real digits and a detector in the World.

Each step is one function that takes what the ones before it made and gives a Section of the report.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from oculi.compress.post_training_quantization import PostTrainingQuantization, size
from oculi.data.augment import Augment
from oculi.data.datasets import Dataset, batches
from oculi.data.digits import load as load_digits
from oculi.explain.grad_cam import GradCAM, overlay
from oculi.flywheel.mining import hard_cases
from oculi.flywheel.report import Section, as_text, framed, overview, side_by_side, write_page
from oculi.learn.charts import bars, lines
from oculi.learn.evaluation import evaluate
from oculi.learn.protocols import detection
from oculi.learn.protocols.classification import answers
from oculi.learn.slices import slice_scores
from oculi.learn.training import Run, train
from oculi.monitor.answers import describe
from oculi.monitor.data_drift import DataDrift
from oculi.monitor.stream import watch
from oculi.predictions import to_pil
from oculi.robust.fgsm import FGSM
from oculi.serve.load_test import load_test
from oculi.serve.onnx_export import OnnxModel, export
from oculi.system import System, predict, replacing
from oculi.types import Batch, Sample


@dataclass
class Demo:
    """What the steps share: the folder, how long to train, whether to show progress, and the runs."""

    folder: Path
    steps: int
    detector_steps: int
    progress: bool
    classifier: Run | None = None
    detector: Run | None = None
    test: Batch | None = None

    @property
    def digits(self) -> Run:
        assert self.classifier is not None
        return self.classifier

    @property
    def scenes(self) -> Run:
        assert self.detector is not None
        return self.detector

    @property
    def batch(self) -> Batch:
        """All test digits."""
        if self.test is None:
            self.test = next(iter(batches(self.digits.splits.test, 500)))
        return self.test


def demo(
    folder: str = "runs/demo", steps: int = 400, detector_steps: int = 700, progress: bool = True
) -> list[Section]:
    """Run every step, write `report.html` and `overview.png` into `folder` and give the sections."""
    state = Demo(Path(folder), steps, detector_steps, progress)
    state.folder.mkdir(parents=True, exist_ok=True)
    sections: list[Section] = []
    began = time.perf_counter()
    for number, step in enumerate(STEPS, 1):
        started = time.perf_counter()
        if progress:
            print(f"[{number}/{len(STEPS)}] {(step.__doc__ or '').splitlines()[0]}", flush=True)
        section = step(state)
        section.rows.append(("seconds", f"{time.perf_counter() - started:.1f}"))
        sections.append(section)
    summary = (
        "Handwritten digits and generated scenes through the life of a vision system. "
        f"Every figure comes from this run, which took {time.perf_counter() - began:.0f} seconds."
    )
    write_page(state.folder / "report.html", "oculi demo", summary, sections)
    with replacing(state.folder / "overview.png") as temporary:
        overview(sections).save(temporary, "PNG")
    if progress:
        print(f"\n{as_text(sections)}\n\nreport: {state.folder / 'report.html'}")
    return sections


def learn(state: Demo) -> Section:
    """Train a classifier on real digits and a detector on generated scenes."""
    chosen: dict[str, Any] = {"training.steps": state.steps, "training.warmup": state.steps // 10}
    state.classifier = train("resnet", state.folder / "classifier", chosen, progress=state.progress)
    chosen = {"training.steps": state.detector_steps, "training.warmup": state.detector_steps // 10, **DETECTOR}
    state.detector = train("faster_rcnn", state.folder / "detector", chosen, progress=state.progress)
    rows = []
    for name, run, steps in (("digits", state.digits, state.steps), ("scenes", state.scenes, state.detector_steps)):
        parameters = sum(p.numel() for p in run.system.parameters())
        rows.append((f"{name} to train on, steps", f"{len(run.splits.train):,}, {steps}"))
        rows.append((f"{run.recipe.title}'s parameters", f"{parameters:,}"))
    text = (
        "A small ResNet on the digits that scikit-learn ships, a small Faster R-CNN on World scenes of 64 x 64 pixels."
    )
    pictures = [to_pil(state.scenes.splits.train[i].image, 3) for i in range(12)]  # type: ignore[arg-type]
    return Section("Learn", text, rows, [("Scenes", side_by_side(pictures, columns=4))])


def score(state: Demo) -> Section:
    """Score the classifier, by slices too."""
    scores = evaluate(state.digits.system, state.digits.splits)
    probabilities, label = answers(state.digits.system, state.digits.splits.test)
    image = state.batch.image
    assert image is not None
    said = probabilities.argmax(1)
    ink = image.mean((1, 2, 3))
    members = {f"digit {d}": label == d for d in range(10)}
    thirds = torch.quantile(ink, torch.tensor([1 / 3, 2 / 3]))
    members |= {"little ink": ink < thirds[0], "much ink": ink > thirds[1]}
    found = slice_scores(said == label, members)
    rows = [("accuracy", f"{scores['accuracy']:.1%}"), ("calibration error", f"{scores['calibration_error']:.3f}")]
    rows += [(f"slice: {s.name}", f"{s.score:.1%} of {s.count}{', flagged' if s.worse else ''}") for s in found[:3]]
    right = said == label
    chosen = [*(~right).nonzero()[:4, 0].tolist(), *right.nonzero()[:12, 0].tolist()][:12]
    said_of = predict(state.digits.system, Batch(image=image[chosen]))
    shown = [framed(a.plot(image[i]), bool(right[i])) for a, i in zip(said_of, chosen, strict=True)]
    chart = bars({s.name: 100 * s.score for s in found}, "% right", [s.name for s in found if s.worse])
    return Section(
        "Score the classifier",
        "500 digits it has never seen. A slice is starred when it is worse by more than chance explains.",
        rows,
        [
            ("Mistakes (orange), then digits it got right", side_by_side(shown)),
            ("Share of right answers by slice", chart),
        ],
    )


def score_detector(state: Demo) -> Section:
    """Score the detector, by slices too."""
    run = state.scenes
    scores = evaluate(run.system, run.splits)
    found, truths = detection.answers(run.system, run.splits.test)
    table = detection.objects(found, truths)
    names, side = run.splits.class_names or [], table["side"]
    members = {name: table["label"] == index for index, name in enumerate(names)}
    members |= {"under 12 pixels": side < 12, "from 16 pixels": side >= 16}
    slices = slice_scores(table["right"].bool(), members)
    rows = [
        ("mean average precision, IoU 0.5 to 0.95", f"{scores['map']:.3f}"),
        ("mean average precision, IoU 0.5", f"{scores['map50']:.3f}"),
    ]
    rows += [(f"slice: {s.name}", f"{s.score:.1%} of {s.count}{', flagged' if s.worse else ''}") for s in slices[:3]]
    scenes = Batch.of([run.splits.test[i] for i in range(6)]).pictures
    shown = [found[i].plot(scene, 0.5) for i, scene in enumerate(scenes)]
    chart = bars({s.name: 100 * s.score for s in slices}, "% of objects found", [s.name for s in slices if s.worse])
    text = "Scenes it has never seen, after a short training (the full recipe's figure is in the README)."
    pictures = [("What it finds", side_by_side(shown, columns=3)), ("Share of the objects found, by slice", chart)]
    return Section("Score the detector", text, rows, pictures)


def explain(state: Demo) -> Section:
    """Explain: where it looks."""
    batch = _first(state, 6)
    assert batch.image is not None
    heat = GradCAM()(state.digits.system, batch.image)
    shown = [overlay(image, h, at_least=160) for image, h in zip(batch.image, heat, strict=True)]
    return Section(
        "Explain",
        "Grad-CAM: the bright places speak for the class it chose.",
        [],
        [("", side_by_side(shown, columns=3))],
    )


def attack(state: Demo) -> Section:
    """Attack: how little it takes to fool it."""
    system, rows, shown = state.digits.system, [], []
    assert state.batch.image is not None
    strengths, shares = [0.0, 0.02, 0.05, 0.1], [float(_right(system, state.batch).float().mean())]
    for eps in strengths[1:]:
        changed = FGSM(eps)(system, state.batch)
        right = _right(system, replace(state.batch, image=changed))
        shares.append(float(right.float().mean()))
        rows.append((f"accuracy under FGSM, eps {eps:g}", f"{shares[-1]:.1%}"))
        budget = float((changed - state.batch.image).abs().max())
        if budget > eps * (1 + 1e-6):
            raise RuntimeError(f"the attack left its budget: {budget} > {eps}")
        shown += [to_pil(changed[i], 8) for i in range(4)]
    chart = lines(strengths, {"FGSM": [100 * share for share in shares]}, "eps", "% right")
    picture = side_by_side(shown, columns=4)
    return Section(
        "Attack",
        "One step along the gradient's sign.",
        rows,
        [("Rows: eps 0.02, 0.05, 0.1 of the full range", picture), ("Accuracy against the attack's strength", chart)],
    )


def ship(state: Demo) -> Section:
    """Quantise and export, decisions compared."""
    system, splits = state.digits.system, state.digits.splits
    small = PostTrainingQuantization()(system, list(batches(splits.train, 64))[:4])
    path = state.folder / "digits.onnx"
    pictures = [_bytes_of(sample) for sample in _samples(splits.test, 200)]
    report = export(system, path, pictures)
    onnx = OnnxModel(path)
    theirs = [answer.label for answer in onnx.predict(pictures)]  # type: ignore[attr-defined]
    ours = [answer.label for answer in predict(system, list(pictures))]  # type: ignore[attr-defined]
    before, after = evaluate(system, splits)["accuracy"], evaluate(small, splits)["accuracy"]
    rows = [
        ("weights, float32", f"{size(system) / 1e3:.0f} kB"),
        ("weights, int8", f"{size(small) / 1e3:.0f} kB ({size(system) / size(small):.1f}x smaller)"),
        ("accuracy, float32 and int8", f"{before:.1%} and {after:.1%}"),
        ("latency, torch, one picture", f"{_median_ms(lambda: predict(system, [pictures[0]])):.2f} ms"),
        ("latency, ONNX, one picture", f"{_median_ms(lambda: onnx.predict([pictures[0]])):.2f} ms"),
        ("ONNX decisions equal torch's", f"{sum(a == b for a, b in zip(ours, theirs, strict=True))} of {len(ours)}"),
        ("largest difference", f"{report.max_difference:.1e}"),
    ]
    return Section("Ship", "The file is only written when it decides as torch does.", rows)


def serve(state: Demo) -> Section:
    """Serve over HTTP and ask a few hundred times."""
    pictures = [_bytes_of(sample) for sample in _samples(state.digits.splits.test, 100)]
    found = load_test(state.digits.system, pictures, requests=300, clients=8)
    said = [answer.label for answer in predict(state.digits.system, pictures)]  # type: ignore[attr-defined]
    same = sum(answer.get("label") == label for answer, label in zip(found.answers, said, strict=True))
    rows = [*found.rows(), ("answers equal Python's", f"{same} of {len(said)}")]
    return Section("Serve", "A server on loopback with a token; requests that meet are answered in one batch.", rows)


def monitor(state: Demo) -> Section:
    """Watch: let a changed stream in."""
    splits = state.digits.splits
    held = _samples(splits.validation) + _samples(splits.test)
    clean = Batch.of(held).pictures
    changed = clean[500:] * 0.7
    watched = DataDrift(false_alarm_rate=0.01, window=50, stride=25).fit(clean[:300], **describe(state.digits.system))
    found = watch(watched, clean[300:500], changed)
    text = (
        "Digits the classifier was not trained on are the reference. Clean ones follow, then darker ones. Windows of 50 "
        "are held against the reference by Kolmogorov-Smirnov; the alarm is set to ring by chance in 1 % of them."
    )
    more = [("pictures", f"{len(clean[300:500])} clean, then {len(changed)} darker")]
    return Section(
        "Watch",
        text,
        more + found.rows(),
        [("Each dot is a window; those ringed in orange raised the alarm", found.plot())],
    )


def improve(state: Demo) -> Section:
    """Mine the hard cases of a hard stream, label them, train again."""
    splits = load_digits(labelled=0, seed=1)
    train_all = _samples(splits.train)
    known, stream = train_all[:150], corrupted(train_all[150:], seed=1)
    test = corrupted(_samples(splits.test), seed=2)
    budget = 100
    first = _short_training(state, replace(splits, train=known, test=test))
    before = evaluate(first.system, first.splits)["accuracy"]
    prepared = replace(splits, train=stream).prepared(first.system.contract).train
    probabilities, _ = answers(first.system, prepared)
    mined = [stream[i] for i in hard_cases(probabilities, budget).tolist()]
    order = torch.randperm(len(stream), generator=torch.Generator().manual_seed(0))[:budget].tolist()
    gains = {}
    for name, chosen in (("mined", mined), ("random", [stream[i] for i in order])):
        again = _short_training(state, replace(splits, train=known + chosen, test=test))
        gains[name] = evaluate(again.system, again.splits)["accuracy"]
    rows = [
        ("accuracy on the changed stream, before", f"{before:.1%}"),
        (f"with {budget} mined labels", f"{gains['mined']:.1%}"),
        (f"with {budget} random labels", f"{gains['random']:.1%}"),
    ]
    text = (
        "150 clean digits to begin with; the stream is noisy, dark and shifted. The hardest pictures by margin are "
        "labelled and added, against as many random ones. One seed: a difference of a few points is chance."
    )
    return Section("Learn again", text, rows, [("The changed stream", _sheet(test, 12))])


STEPS: list[Callable[[Demo], Section]] = [
    learn, score, score_detector, explain, attack, ship, serve, monitor, improve,
]  # fmt: skip
# a short training: fewer scenes, and an average of the weights that forgets sooner
DETECTOR: dict[str, Any] = {"data.train": 2000, "data.test": 100, "training.ema": 0.98}


def corrupted(samples: list[Sample], seed: int) -> list[Sample]:
    """Darker, noisier, shifted copies."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        change = Augment(shift=0.08, rotate=0.2, noise=0.1, contrast=0.2)
        image = change(Batch.of(samples)).image
    assert image is not None
    return [replace(s, image=(i * 0.8 * 255).round() / 255) for s, i in zip(samples, image, strict=True)]


def _short_training(state: Demo, splits: object) -> Run:
    overrides = {"training.steps": state.steps // 2, "training.warmup": state.steps // 20}
    return train("resnet", overrides=overrides, progress=False, splits=splits)  # type: ignore[arg-type]


def _first(state: Demo, n: int) -> Batch:
    return Batch(image=state.batch.image[:n], label=state.batch.label[:n])  # type: ignore[index]


def _right(system: System, batch: Batch) -> Tensor:
    said = torch.tensor([answer.label for answer in predict(system, batch)])  # type: ignore[attr-defined]
    assert batch.label is not None
    return said == batch.label


def _samples(dataset: Dataset, n: int | None = None) -> list[Sample]:
    """The first n samples, or all."""
    return [dataset[i] for i in range(len(dataset) if n is None else n)]


def _bytes_of(sample: Sample) -> np.ndarray:
    """A grey picture as people hand it in."""
    assert sample.image is not None
    return (sample.image[0] * 255).round().byte().numpy()


def _sheet(dataset: Dataset, n: int) -> Image.Image:
    return side_by_side([to_pil(dataset[i].image, 10) for i in range(n)])  # type: ignore[arg-type]


def _median_ms(call: Callable[[], object], repeats: int = 30) -> float:
    """Median of `repeats` calls after three to warm up."""
    times = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return sorted(times[3:])[repeats // 2] * 1e3
