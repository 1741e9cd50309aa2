r"""SIFT beside OpenCV's and kornia's: time, repeatability, matching score and matching, in one process, one thread.

    python benchmarks/sift.py                     all of it
    python benchmarks/sift.py --no-kornia         without kornia, which takes seconds a picture

Time is processor time, medians of interleaved repetitions: all three detect and describe the same grey photographs at the
same size, doubled first, as many keypoints as they find (kornia as many as OpenCV found, which it must be told). Quality:
photographs against their known warps, means of all pairs, ours by OpenCV's. Matching: mutual nearest neighbours with
ratio test against OpenCV's brute force with cross check, which has no ratio test, and its two nearest.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
import torch
from torch import Tensor

from oculi.classical.sift import SIFT, warp, warps
from oculi.metrics.correspondence import matching_score, repeatability
from oculi.ops.matching import match_descriptors

NAMES = ("astronaut", "camera", "coffee", "chelsea", "rocket", "brick")


def grey(name: str) -> np.ndarray:
    """A photograph that scikit-image carries, grey."""
    picture = getattr(skimage.data, name)()
    return picture if picture.ndim == 2 else cv2.cvtColor(picture[..., :3], cv2.COLOR_RGB2GRAY)


def medians(functions: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """Milliseconds of processor time of each, called in turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repetitions + 1):
        for name, function in functions.items():
            start = time.process_time()
            function()
            times[name].append(time.process_time() - start)
    return {name: 1000 * statistics.median(values[1:]) for name, values in times.items()}


def kornia_sift(count: int) -> Any:
    """kornia's SIFTFeature for `count` keypoints, or None where it is not installed."""
    sys.path.append(str(Path(sys.prefix) / "oracles"))
    try:
        from kornia.feature import SIFTFeature
    except ModuleNotFoundError:
        return None
    return SIFTFeature(num_features=count, rootsift=False).eval()


def timed(repetitions: int, with_kornia: bool) -> None:
    """Print the times at two sizes."""
    theirs = cv2.SIFT_create()
    for width, height in ((640, 480), (1024, 768)):
        rows, system = [], SIFT(width).eval()
        for name in NAMES[:3]:
            picture = cv2.resize(grey(name), (width, height), interpolation=cv2.INTER_AREA)
            tensor = torch.from_numpy(picture)[None].float() / 255
            functions = {
                "ours": lambda s=system, t=tensor: s.detect(t),
                "opencv": lambda p=picture: theirs.detectAndCompute(p, None),
            }
            found, expected = len(functions["ours"]().points), len(functions["opencv"]()[0])
            other = kornia_sift(expected) if with_kornia else None
            if other is not None:
                functions["kornia"] = lambda o=other, t=tensor: o(t[None])
            row = medians(functions, repetitions)
            rows.append(row)
            against = (
                f", kornia {row['kornia']:.0f} ms, kornia / ours {row['kornia'] / row['ours']:.1f}" if other else ""
            )
            print(
                f"{width}x{height} {name}: ours {row['ours']:.0f} ms ({found}), OpenCV {row['opencv']:.0f} ms"
                f" ({expected}), ours / OpenCV {row['ours'] / row['opencv']:.2f}{against}",
                flush=True,
            )
        ratio = statistics.geometric_mean([row["ours"] / row["opencv"] for row in rows])
        slower = [row["kornia"] / row["ours"] for row in rows if "kornia" in row]
        against = f", kornia / ours {statistics.geometric_mean(slower):.1f} (to reach 4)" if slower else ""
        print(f"{width}x{height}: ours / OpenCV {ratio:.2f} (goal 2){against}", flush=True)


def opencv_keypoints(image: Tensor, sift: Any) -> tuple[Tensor, Tensor]:
    """Places, pixel centres at +0.5, and descriptors."""
    found, described = sift.detectAndCompute((image[0] * 255).round().byte().numpy(), None)
    return torch.tensor([k.pt for k in found]).double() + 0.25, torch.from_numpy(described)


def quality(size: int) -> None:
    """Print repeatability and matching score of each photograph under its warps, and ours by OpenCV's."""
    system, theirs, every = SIFT(size).eval(), cv2.SIFT_create(), []
    for name in NAMES:
        image = system.contract.prepare(cv2.resize(grey(name), (size, size), interpolation=cv2.INTER_AREA))
        mine, its, rows = system.detect(image), opencv_keypoints(image, theirs), []
        for H in warps(size).values():
            moved = warp(image, H)
            after, then = system.detect(moved), opencv_keypoints(moved, theirs)
            sides = ((mine.points.double(), mine.descriptors, after.points.double(), after.descriptors), (*its, *then))
            row = []
            for a, one, b, two in sides:
                pairs, _ = match_descriptors(one, two)
                row += [repeatability(a, b, H, size, size), matching_score(a, b, pairs, H, size, size)]
            rows.append(row)
        mean = torch.tensor(rows).double().mean(0)
        every.append(mean)
        print(f"{name}: " + ", ".join(f"{v:.3f}" for v in (mean[:2] / mean[2:]).tolist()), flush=True)
    mean = torch.stack(every).mean(0)
    print(
        f"repeatability {mean[0]:.3f}, OpenCV {mean[2]:.3f}, ratio {mean[0] / mean[2]:.3f};"
        f" matching score {mean[1]:.3f}, OpenCV {mean[3]:.3f}, ratio {mean[1] / mean[3]:.3f} (to reach 0.98)"
    )


def matching(count: int, repetitions: int) -> None:
    """Print the times of matching `count` descriptors with as many."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.nn.functional.normalize(torch.rand(count, 128, generator=generator)) for _ in range(2))
    cross, plain = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True), cv2.BFMatcher(cv2.NORM_L2)
    a, b = first.numpy(), second.numpy()
    row = medians(
        {
            "ours": lambda: match_descriptors(first, second, 0.8),
            "cross check": lambda: cross.match(a, b),
            "two nearest": lambda: plain.knnMatch(a, b, k=2),
        },
        repetitions,
    )
    print(
        f"matching {count} with {count}: ours (mutual and ratio) {row['ours']:.0f} ms, OpenCV cross check"
        f" {row['cross check']:.0f} ms, two nearest {row['two nearest']:.0f} ms,"
        f" ours / OpenCV {row['ours'] / min(row['cross check'], row['two nearest']):.2f}"
    )


def main() -> None:
    """Print it all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--size", type=int, default=384, help="of the photographs whose quality is measured")
    parser.add_argument("--no-kornia", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")
    with torch.inference_mode():
        timed(options.repetitions, not options.no_kornia)
        matching(2000, options.repetitions)
        matching(8000, 2)
    with torch.no_grad():
        quality(options.size)
    print(f"{platform.machine()}, 1 thread, torch {torch.__version__}, OpenCV {cv2.__version__}")


if __name__ == "__main__":
    main()
