r"""Batched non-maximum suppression of 10,000 boxes: ours beside OpenCV's, in one process, one thread, the same set kept.

    python benchmarks/nms.py --boxes 10000

Boxes lie in clusters round objects, as a detector's do, in a picture of 1024 pixels, or anywhere. Both start from what
they work on, arrays for OpenCV and tensors for ours. The ratio is our
processor time by theirs, medians of interleaved repetitions, so that what else the machine does hardly counts.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from oculi.ops.nms import batched_nms

SIDE, THRESHOLD, TARGET = 1024, 0.5, 1.0


def made(boxes: int, classes: int, clustered: bool, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes with whole corners, so that no overlap is decided by rounding; different scores; labels."""
    g = torch.Generator().manual_seed(seed)
    objects = 100 if clustered else boxes
    own = torch.randint(0, objects, (boxes,), generator=g)
    size = 16 + 112 * torch.rand(objects, 2, generator=g)[own]
    centre = size / 2 + torch.rand(objects, 2, generator=g)[own] * (SIDE - size)
    label = torch.randint(0, classes, (objects,), generator=g)[own]
    noise = torch.randn(2, boxes, 2, generator=g) * 0.1 * size
    size = (size + noise[1]).clamp_min(4)
    low = (centre + noise[0] - size / 2).round().clamp(0, SIDE - 8)
    found = torch.cat([low, (low + size.round()).clamp_max(SIDE)], 1)
    return found, torch.randperm(boxes, generator=g).float() / boxes, label


def main() -> None:
    """Time both, compare what they keep, print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boxes", type=int, default=10_000)
    parser.add_argument("--repetitions", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for classes, clustered in ((80, True), (80, False), (1, True), (1, False)):
        boxes, scores, labels = made(options.boxes, classes, clustered)
        corner_and_size = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).double().numpy()
        given: Any = corner_and_size, scores.numpy(), labels.int().numpy()
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(options.repetitions + 1):
            start = time.process_time()
            ours = batched_nms(boxes, scores, labels, THRESHOLD)
            middle = time.process_time()
            theirs = cv2.dnn.NMSBoxesBatched(*given, -1.0, THRESHOLD)
            seconds["ours"].append(middle - start)
            seconds["theirs"].append(time.process_time() - middle)
        same = np.array_equal(ours.numpy(), np.asarray(theirs).reshape(-1))
        mine, other = (1000 * statistics.median(seconds[name][1:]) for name in ("ours", "theirs"))
        print(
            f"{options.boxes} boxes, {classes} classes, {'clustered' if clustered else 'anywhere'}: kept {len(ours)},"
            f" same {same}, ours {mine:.1f} ms, OpenCV {other:.1f} ms, ratio {mine / other:.2f} (target {TARGET})"
        )
    print(f"{platform.machine()}, 1 thread, torch {torch.__version__}, OpenCV {cv2.__version__}")


if __name__ == "__main__":
    main()
