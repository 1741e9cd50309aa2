r"""Sparse Lucas-Kanade beside OpenCV's calcOpticalFlowPyrLK: time and error, in one process, one thread.

    python benchmarks/optical_flow.py --points 1000 --repetitions 9

A photograph of 640 x 480 and the same moved by a smooth random flow of at most 8 pixels, in bytes. Both follow the same
points with windows of 21 x 21, four levels and steps down to 0.01 pixel; both build their pyramids. The error is the
distance to the true motion of the points that both found, in pixels. The ratio is our processor time by theirs, medians
of interleaved repetitions. Below it the dense method beside OpenCV's dense Farneback on the same pair.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from oculi.classical.lucas_kanade import LucasKanade, smooth_flow, warp_by_flow
from oculi.classical.sparse_feature_flow import good_points, track_points


def moving(height: int = 480, width: int = 640, amplitude: float = 8.0) -> tuple[Tensor, Tensor, Tensor]:
    """Two pictures in bytes (as floats in [0, 1]) and the flow between them."""
    from skimage import data

    after = torch.from_numpy(data.astronaut()).float().mean(-1)[None, None] / 255
    after = F.interpolate(after, size=(height, width), mode="bilinear", antialias=True)
    flow = smooth_flow(width, amplitude, torch.Generator().manual_seed(0))[..., :height, :]
    before, _ = warp_by_flow(after, flow)
    pictures = [(255 * p.clamp(0, 1)).round() / 255 for p in (before, after)]
    return pictures[0], pictures[1], flow


def timed(pair: list[Callable[[], Any]], repetitions: int) -> tuple[list[Any], list[float]]:
    """What each gives, and its median processor time in milliseconds, interleaved, after a warm-up."""
    seconds: list[list[float]] = [[] for _ in pair]
    answers: list[Any] = [None] * len(pair)
    for _ in range(repetitions + 1):
        for k, call in enumerate(pair):
            began = time.process_time()
            answers[k] = call()
            seconds[k].append(1000 * (time.process_time() - began))
    return answers, [statistics.median(s[1:]) for s in seconds]


def main() -> None:
    """Time both, print errors and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    before, after, flow = moving()
    one, two = ((255 * p[0, 0]).to(torch.uint8).numpy() for p in (before, after))
    points = good_points(before[0], options.points, quality=1e-3, apart=4)
    start = np.ascontiguousarray((points - 0.5).numpy()[:, None])
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01)
    (ours, theirs), (mine, other) = timed(
        [
            lambda: track_points(before[0], after[0], points),
            lambda: cv2.calcOpticalFlowPyrLK(one, two, start, None, winSize=(21, 21), maxLevel=3, criteria=criteria),  # type: ignore[call-overload]
        ],
        options.repetitions,
    )
    x, y = points.long().unbind(1)
    truth = flow[0][:, y, x].T
    both = ours.found & torch.from_numpy(theirs[1][:, 0]).bool()
    errors = [(f - truth).norm(dim=1)[both] for f in (ours.flow, torch.from_numpy((theirs[0] - start)[:, 0]))]
    named = [f"mean {float(e.mean()):.3f}, median {float(e.median()):.3f}" for e in errors]
    print(f"{len(points)} points, {int(both.sum())} found by both; error in pixels: ours {named[0]}, OpenCV {named[1]}")
    print(f"ours {mine:.1f} ms, OpenCV {other:.1f} ms, ratio {mine / other:.2f}")
    system = LucasKanade(640).eval()
    with torch.no_grad():
        (ours, theirs), (mine, other) = timed(
            [
                lambda: system(before, after)[0],
                lambda: cv2.calcOpticalFlowFarneback(one, two, None, 0.5, 4, 15, 5, 5, 1.1, 0),  # type: ignore[call-overload]
            ],
            max(1, options.repetitions // 3),
        )
    errors = [torch.linalg.norm(f - flow, dim=1) for f in (ours, torch.from_numpy(theirs).permute(2, 0, 1)[None])]
    print(
        f"dense, mean error of all pixels: ours {float(errors[0].mean()):.3f}, Farneback {float(errors[1].mean()):.3f}"
    )
    print(f"dense: ours {mine:.0f} ms, Farneback {other:.0f} ms, ratio {mine / other:.2f}")
    print(f"{platform.machine()}, 1 thread, torch {torch.__version__}, OpenCV {cv2.__version__}")


if __name__ == "__main__":
    main()
