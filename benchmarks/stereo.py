r"""Semi-global matching beside OpenCV's StereoSGBM (full mode, 8 paths): time and error, in one process, one thread.

    python benchmarks/stereo.py --disparities 64 --repetitions 5

The pair is Middlebury's motorcycle as scikit-image ships it, 741 x 500 in grey. Both search the same disparities, check
left against right, and drop speckles; OpenCV has the penalties of its own documentation (8 and 32 times the block's
area), its best block of 3 and 5, uniqueness 10 %. Both disparity maps are then treated alike: pixels without a match take
the farther neighbour of their row, then a 3 x 3 median. Errors are shares of pixels of known disparity off by more than
2 (bad-2.0): `filled` as said; `holes` with every unmatched pixel counted as wrong; `matched` among the matched alone.
The first `disparities` columns are left out, since OpenCV does not search there; `all` has them. The time of OpenCV is
that of `compute`, of ours from the two pictures to the filled and smoothed map. The ratio is our processor time by
theirs, medians of interleaved repetitions.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import cv2
import numpy as np
import torch
from torch import Tensor

from oculi.classical.stereo_depth import StereoDepth, background_filled, bad_share, median_of_nine, motorcycle


def opencv(disparities: int, block: int) -> cv2.StereoSGBM:
    """With the settings that its documentation recommends."""
    return cv2.StereoSGBM_create(
        minDisparity=0, numDisparities=disparities, blockSize=block, P1=8 * block**2, P2=32 * block**2,
        disp12MaxDiff=1, uniquenessRatio=10, speckleWindowSize=100, speckleRange=2, preFilterCap=63,
        mode=cv2.STEREO_SGBM_MODE_HH,
    )  # fmt: skip


def errors(disparity: Tensor, sure: Tensor, truth: Tensor, disparities: int) -> str:
    """The figures of one map, in per cent."""
    known = torch.isfinite(truth)
    beyond = known & (torch.arange(truth.shape[-1]) >= disparities)
    filled = median_of_nine(background_filled(disparity, sure))
    holes = torch.where(sure, disparity, torch.inf)
    named = {
        "filled": (filled, beyond), "holes": (holes, beyond), "matched": (disparity, beyond & sure), "all": (filled, known),
    }  # fmt: skip
    figures = ", ".join(f"{k} {100 * bad_share(d, truth, counted, 2.0):.2f}" for k, (d, counted) in named.items())
    return f"{figures} %, matched share {float((sure & beyond).sum() / beyond.sum()):.3f}"


def main() -> None:
    """Time both, print errors and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--disparities", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    left, right, truth = motorcycle()
    one, two = (np.ascontiguousarray((255 * p[0, 0]).round().to(torch.uint8).numpy()) for p in (left, right))
    system = StereoDepth(disparities=options.disparities).eval()
    matchers = {f"OpenCV block {b}": opencv(options.disparities, b) for b in (3, 5)}
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *matchers)}
    maps = {}
    for _ in range(options.repetitions + 1):
        began = time.process_time()
        maps["ours"] = system(left, right)
        seconds["ours"].append(time.process_time() - began)
        for name, matcher in matchers.items():
            began = time.process_time()
            found = matcher.compute(one, two)
            seconds[name].append(time.process_time() - began)
            disparity = torch.from_numpy(found.astype(np.float32) / 16)[None]
            maps[name] = disparity, disparity >= 0
    middle = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    for name, (disparity, sure) in maps.items():
        print(f"{name}: {1000 * middle[name]:.0f} ms; bad-2.0 {errors(disparity, sure, truth, options.disparities)}")
    for name in matchers:
        print(f"ours over {name}: {middle['ours'] / middle[name]:.2f}")
    print(f"{platform.machine()}, 1 thread, torch {torch.__version__}, OpenCV {cv2.__version__}")


if __name__ == "__main__":
    main()
