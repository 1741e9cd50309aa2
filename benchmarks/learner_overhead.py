r"""What the Learner costs: steps of ResNet-18 through it against the same steps in a bare PyTorch loop.

    python benchmarks/learner_overhead.py --pictures 32 --batch 32 --size 64

Equal weights, equal batches, SGD with momentum, one process; after a warm-up of both the repetitions are interleaved and
the medians compared. The Learner's time includes its loader, schedule, logging and the check for divergence; the bare
loop has the batches ready and none of these. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from itertools import pairwise

import torch

from oculi.backbones.resnet import ResNet
from oculi.data.datasets import Splits
from oculi.learn.learner import Callback, Training, fit
from oculi.types import Batch, Sample


class Clock(Callback):
    """The time after every step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: object) -> None:
        self.ends.append(time.perf_counter())


def system(size: int, device: torch.device) -> ResNet:
    """ResNet-18 with the small stem, the same weights each time."""
    torch.manual_seed(0)
    return ResNet(10, [2, 2, 2, 2], stem="small", image_size=size).to(device)


def learner_steps(data: list[Sample], size: int, batch: int, steps: int, device: torch.device) -> list[float]:
    """Seconds of each step but the first, through the Learner."""
    clock = Clock()
    options = Training(steps=steps, batch_size=batch, optimizer="sgd", lr=0.01)
    fit(system(size, device), options, Splits(data, data, data), progress=False, callbacks=[clock])
    return [b - a for a, b in pairwise(clock.ends)]


def bare_steps(data: list[Sample], size: int, batch: int, steps: int, device: torch.device) -> list[float]:
    """The same in a loop of five lines."""
    model = system(size, device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    ready = [Batch.of(data[i : i + batch]).to(device) for i in range(0, len(data) - batch + 1, batch)]
    ends = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = model.loss(ready[step % len(ready)])["cross_entropy"]
        loss.backward()
        optimizer.step()
        loss.item()
        ends.append(time.perf_counter())
    return [b - a for a, b in pairwise(ends)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=32, help="side of the pictures")
    parser.add_argument("--batch", type=int, default=32, help="pictures a step")
    parser.add_argument("--steps", type=int, default=6, help="steps a repetition")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    data = [
        Sample(image=torch.rand(3, options.size, options.size, generator=generator), label=i % 10)
        for i in range(4 * options.batch)
    ]
    ways = {"learner": learner_steps, "bare": bare_steps}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(options.repetitions + 1):
        for name in sorted(ways, reverse=repetition % 2 == 0):  # each goes first as often as the other
            found = ways[name](data, options.size, options.batch, options.steps, device)
            if repetition:  # the first is the warm-up
                seconds[name] += found
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    described = {
        **{f"{name}_ms": round(1000 * value, 2) for name, value in medians.items()},
        "ratio": round(medians["learner"] / medians["bare"], 4),
        **vars(options),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(described))


if __name__ == "__main__":
    main()
