r"""COCO's box scores of 5,000 pictures with 100 detections each, 80 classes: ours, pycocotools and faster-coco-eval.

    python benchmarks/coco_evaluation.py --pictures 5000 --repetitions 3

One process, one thread. Each starts from records of its own: ours from `Detections` and `Objects`, theirs from the
annotations that `loadRes` has read, and ends at the twelve numbers, which must agree to 1e-9. faster-coco-eval is timed
without the matching of annotations that it adds to COCO's numbers (`extra_calc=False`). Medians of interleaved repetitions;
peak memory is what the process grows by while a child of it evaluates once.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from oculi.metrics.detection import Objects, coco
from oculi.predictions import Detections

CLASSES = 80


def work(pictures: int, detections: int, seed: int = 0) -> tuple[list[Detections], list[Objects]]:
    """About 7 objects a picture, a hundredth of them crowds, five shifted copies of each, the rest anywhere."""
    rng = np.random.default_rng(seed)
    found, truths = [], []
    for _ in range(pictures):
        n = int(rng.poisson(7.3))
        kinds = rng.choice(CLASSES, 4)
        boxes, labels = _boxes(rng, n), rng.choice(kinds, n)
        pick = rng.permutation(np.repeat(np.arange(n), 5))[:detections]
        shift = rng.normal(0, 0.12, (len(pick), 4)) * np.tile(boxes[pick, 2:] - boxes[pick, :2], 2)
        near = boxes[pick] + shift
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        rest = detections - len(pick)
        said = np.concatenate([near, _boxes(rng, rest)])
        called = np.concatenate(
            [np.where(rng.random(len(pick)) < 0.85, labels[pick], rng.choice(CLASSES, len(pick))),
             np.where(rng.random(rest) < 0.5, rng.choice(kinds, rest), rng.choice(CLASSES, rest))]
        )  # fmt: skip
        score = np.concatenate([rng.beta(2, 2, len(pick)), rng.beta(1, 4, rest)])
        order = np.argsort(-score)
        truths.append(
            Objects(torch.from_numpy(boxes), torch.from_numpy(labels), torch.from_numpy(rng.random(n) < 0.01))
        )
        found.append(Detections(*(torch.from_numpy(v[order]) for v in (said, score, called))))
    return found, truths


def _boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    size = np.exp(rng.uniform(np.log(8), np.log(300), (n, 2)))
    low = rng.uniform(0, 1, (n, 2)) * np.maximum(1, np.array([640, 480]) - size)
    return np.concatenate([low, low + size], 1)


def annotations(found: list[Detections], truths: list[Objects]) -> tuple[dict, list[dict]]:
    """The same as COCO's dictionaries."""
    real, said = [], []
    for i, (answer, truth) in enumerate(zip(found, truths, strict=True)):
        rows = zip(truth.boxes.tolist(), truth.labels.tolist(), truth.crowd.tolist(), strict=True)
        for (x1, y1, x2, y2), label, crowd in rows:
            one = {"id": len(real) + 1, "image_id": i + 1, "category_id": label + 1, "iscrowd": int(crowd)}
            real.append(one | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
        rows = zip(answer.boxes.tolist(), answer.labels.tolist(), answer.scores.tolist(), strict=True)
        for (x1, y1, x2, y2), label, score in rows:
            one = {"image_id": i + 1, "category_id": label + 1, "score": score}
            said.append(one | {"bbox": [x1, y1, x2 - x1, y2 - y1]})
    images = [{"id": i + 1, "width": 640, "height": 480} for i in range(len(truths))]
    kinds = [{"id": k + 1, "name": str(k)} for k in range(CLASSES)]
    return {"images": images, "annotations": real, "categories": kinds}, said


def contestants(found: list[Detections], truths: list[Objects], names: list[str]) -> dict[str, Callable[[], list]]:
    """Functions from nothing to the twelve numbers."""
    dataset, said = annotations(found, truths)
    runs: dict[str, Callable[[], list]] = {"oculi": lambda: list(coco(found, truths, CLASSES).summary().values())}
    for name in names:
        if name == "pycocotools":
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval as Run

            options: dict = {}
        else:
            sys.path.append(str(Path(sys.prefix) / "oracles"))
            from faster_coco_eval import COCO
            from faster_coco_eval import COCOeval_faster as Run

            options = {"extra_calc": False}
        with contextlib.redirect_stdout(io.StringIO()):
            real = COCO()
            real.dataset = json.loads(json.dumps(dataset))
            real.createIndex()
            results = real.loadRes(json.loads(json.dumps(said)))

        def run(Run=Run, real=real, results=results, options=options) -> list:
            with contextlib.redirect_stdout(io.StringIO()):
                one = Run(real, results, "bbox", **options)
                one.evaluate()
                one.accumulate()
                one.summarize()
            return list(one.stats[:12])

        runs[name] = run
    return runs


def growth(run: Callable[[], list]) -> float:
    """MiB by which a child process grows while it evaluates once."""
    sys.stdout.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status")
        before = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        run()
        peak = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        os.write(writer, str((peak - before) / 1024).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        return float(pipe.read() or "nan")


def main() -> None:
    """Time, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--peers", nargs="*", default=["faster_coco_eval", "pycocotools"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = contestants(*work(options.pictures, options.detections), options.peers)
    memory = {name: growth(run) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.repetitions):
        numbers = {}
        for name, run in runs.items():
            gc.collect()
            start = time.process_time()
            numbers[name] = run()
            seconds[name].append(time.process_time() - start)
        for name in runs:
            np.testing.assert_allclose(numbers["oculi"], numbers[name], atol=1e-9, rtol=0)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    for name in runs:
        line = {"evaluator": name, "pictures": options.pictures, "detections": options.detections}
        line |= {"seconds": round(middle[name], 3), "over_ours": round(middle[name] / middle["oculi"], 2)}
        print(json.dumps(line | {"peak_mib": round(memory[name], 1), "AP": round(numbers[name][0], 6)}), flush=True)
    print(json.dumps({"process_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))


if __name__ == "__main__":
    main()
