r"""Scenes per second of World on one core at 64 x 64 with image, masks, boxes, depth and caption, beside 300.

python benchmarks/world.py
"""

from __future__ import annotations

import platform
import statistics
import time

import torch

from oculi.data.world.dataset import BLOCK, World

TARGET = 300.0


def main() -> None:
    torch.set_num_threads(1)
    world = World(10_000, fields=("depth",))
    world.make(range(BLOCK))
    seconds = []
    for block in range(9):
        start = time.perf_counter()
        world.make(range(block * BLOCK, (block + 1) * BLOCK))
        seconds.append(time.perf_counter() - start)
    rate = BLOCK / statistics.median(seconds)
    print(f"{rate:.0f} scenes/s, {rate / TARGET:.2f} x the target of {TARGET:.0f} ({platform.machine()}, 1 thread)")


if __name__ == "__main__":
    main()
