r"""Our backbones beside timm's at equal weights, 224 x 224 pixels: eager forward pass and training step.

    python benchmarks/backbones.py --models resnet50 vit_base_patch16_224 --batches 1 32

timm's model writes its random weights in its own format, `oculi.load` reads them; outputs are compared first. Forward is
eval mode without gradient, a training step forward, cross-entropy, backward and SGD. Ours subtracts the mean and divides
by the deviation inside, timm's is handed normalised pictures. One process, interleaved, medians. A line of JSON each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import oculi

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles import timm  # the tests' door to it

MODELS = ["resnet50", "convnext_tiny", "efficientnet_b0", "vit_base_patch16_224"]


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """timm's network and ours with its weights."""
    library = timm()
    torch.manual_seed(0)
    theirs = library.create_model(name)
    with tempfile.TemporaryDirectory() as folder:
        library.models.save_for_hf(theirs, folder, safe_serialization=True)
        ours = oculi.load(folder)
    return theirs, ours


def forward(model: nn.Module, image: Tensor, _: Tensor, __: Any) -> None:
    """One pass in eval mode."""
    with torch.no_grad():
        model(image)


def training_step(model: nn.Module, image: Tensor, label: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step of SGD."""
    optimizer.zero_grad()
    F.cross_entropy(model(image), label).backward()
    optimizer.step()


def compare(
    models: dict[str, nn.Module], step: Callable[..., None], images: dict[str, Tensor], repetitions: int
) -> dict[str, Any]:
    """Medians in milliseconds and their ratio, ours over theirs."""
    label = torch.arange(len(images["ours"]))
    optimizers = {name: torch.optim.SGD(model.parameters(), lr=1e-4) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for repetition in range(repetitions + 1):
        for name in sorted(models, reverse=repetition % 2 == 0):  # each goes first as often as the other
            started = time.perf_counter()
            step(models[name], images[name], label, optimizers[name])
            if repetition:  # the first is the warm-up
                seconds[name].append(time.perf_counter() - started)
    medians = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    return {f"{n}_ms": round(ms, 1) for n, ms in medians.items()} | {
        "ratio": round(medians["ours"] / medians["timm"], 3)
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--seconds", type=float, default=60, help="about how long each comparison may take")
    options = parser.parse_args()
    for name in options.models:
        theirs, ours = pair(name)
        models = {"timm": theirs, "ours": ours}
        passes = [(batch, "forward", forward, False) for batch in options.batches]  # first, while weights are equal
        passes += [(batch, "training step", training_step, True) for batch in options.batches]
        for batch, what, step, train in passes:
            image = torch.rand(batch, 3, 224, 224)
            images = {"ours": image, "timm": (image - ours.pixel_mean) / ours.pixel_std}
            described = {"model": name, "batch": batch, "what": what}
            if not train:
                with torch.no_grad():
                    expected = theirs.eval()(images["timm"])
                    difference = float((ours.eval()(image) - expected).abs().max() / expected.abs().max())
                described["difference"] = f"{difference:.1e}"
            for model in models.values():
                model.train(train)
            started = time.perf_counter()
            step(theirs, images["timm"], torch.arange(batch), torch.optim.SGD(theirs.parameters(), lr=0.0))
            repetitions = max(3, min(31, int(options.seconds / 2 / (time.perf_counter() - started))))
            found = compare(models, step, images, repetitions)
            print(json.dumps({**described, **found, "repetitions": repetitions}), flush=True)
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
