r"""Robust fits beside OpenCV's and scikit-image's: homography, fundamental, essential, pose; one process, one thread.

    python benchmarks/ransac.py --matches 2000

Half of the homography's matches are random, 40 % of the others'; half a pixel of noise; the same threshold and
confidence. The ratio is our processor time by theirs, medians of interleaved repetitions over different data. Beside it
the median error of both: corners in pixels, epipolar distance in pixels, rotation in degrees.
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
import skimage.measure
import skimage.transform
import torch
from threadpoolctl import threadpool_limits

from oculi.classical.ransac import RANSAC, synthetic_matches
from oculi.classical.ransac_models import essential
from oculi.classical.ransac_pnp import RANSACPnP, synthetic_view
from oculi.geometry.camera import intrinsics
from oculi.geometry.epipolar import epipolar_distance
from oculi.geometry.essential import calibrated, relative_pose
from oculi.geometry.pnp import transformed
from oculi.geometry.rotations import rotation_error
from oculi.metrics.correspondence import corner_error

Fit = Callable[[], Any]


def homographies(matches: int, seed: int) -> tuple[dict[str, Fit], Callable[[Any], float]]:
    points, targets, _, H = synthetic_matches(matches, 0.5, 0.5, seed)
    a, b = points.numpy(), targets.numpy()
    model = skimage.transform.ProjectiveTransform
    fits = {
        "ours": lambda: RANSAC("homography", 2.0, 0.995, seed=seed).fit(points, targets).model,
        "OpenCV RANSAC": lambda: cv2.findHomography(a, b, cv2.RANSAC, 2.0, None, 2000, 0.995)[0],
        "OpenCV USAC_MAGSAC": lambda: cv2.findHomography(a, b, cv2.USAC_MAGSAC, 2.0, None, 2000, 0.995)[0],
        "scikit-image": lambda: (
            skimage.measure.ransac((a, b), model, 4, 2.0, max_trials=2000, stop_probability=0.995, rng=seed)[0].params
        ),
    }
    return fits, lambda found: corner_error(torch.as_tensor(found), H, 480, 640)


def two_views(matches: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Points and targets, 40 % of which are random, K, and the second camera's rotation."""
    world, points, K, first, _ = synthetic_view(matches, 0.0, 0.5, seed)
    g = torch.Generator().manual_seed(seed)
    turn = 0.1 * torch.randn(3, 3, generator=g, dtype=torch.float64)
    R = torch.linalg.matrix_exp(turn - turn.T)
    shift = torch.nn.functional.normalize(torch.randn(3, generator=g, dtype=torch.float64), dim=0)
    seen = (transformed(first, world) @ R.T + shift) @ K.T
    targets = seen[:, :2] / seen[:, 2:] + 0.5 * torch.randn(matches, 2, generator=g, dtype=torch.float64)
    wrong = round(0.4 * matches)
    targets[:wrong] = torch.rand(wrong, 2, generator=g, dtype=torch.float64) * targets.new_tensor([640, 480])
    return points, targets, K, R


def fundamentals(matches: int, seed: int) -> tuple[dict[str, Fit], Callable[[Any], float]]:
    points, targets, _, _ = two_views(matches, seed)
    a, b, wrong = points.numpy(), targets.numpy(), round(0.4 * matches)
    fits = {
        "ours": lambda: RANSAC("fundamental", 1.5, seed=seed).fit(points, targets).model,
        "OpenCV FM_RANSAC": lambda: cv2.findFundamentalMat(a, b, cv2.FM_RANSAC, 1.5, 0.99, 4096)[0],
    }
    return fits, lambda F: float(epipolar_distance(torch.as_tensor(F), points[wrong:], targets[wrong:]).median())


def essentials(matches: int, seed: int) -> tuple[dict[str, Fit], Callable[[Any], float]]:
    points, targets, K, R = two_views(matches, seed)
    a, b, wrong = points.numpy(), targets.numpy(), round(0.4 * matches)
    fits = {
        "ours": lambda: RANSAC(essential(K), 1.5, seed=seed).fit(points, targets).model,
        "OpenCV RANSAC": lambda: cv2.findEssentialMat(a, b, K.numpy(), cv2.RANSAC, 0.99, 1.5)[0],
    }

    def error(E: Any) -> float:
        pose = relative_pose(torch.as_tensor(E), calibrated(K, points)[wrong:], calibrated(K, targets)[wrong:])
        return float(rotation_error(pose[0], R))

    return fits, error


def poses(matches: int, seed: int) -> tuple[dict[str, Fit], Callable[[Any], float]]:
    points, pixels, _, truth, _ = synthetic_view(matches, 0.4, 0.5, seed)
    K = intrinsics(500.0, 500.0, 320.0, 240.0).double()
    a, b, k = points.numpy(), pixels.numpy(), K.numpy()
    fits = {
        "ours": lambda: RANSACPnP(seed=seed).fit(points, pixels, K).model[:3, :3],
        "OpenCV solvePnPRansac": lambda: cv2.Rodrigues(
            cv2.solvePnPRansac(a, b, k, None, reprojectionError=2.0, confidence=0.99, iterationsCount=4096)[1]
        )[0],
    }
    return fits, lambda R: float(rotation_error(torch.as_tensor(R), truth[:3, :3]))


def main() -> None:
    """Time all, compare their errors, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matches", type=int, default=2000)
    parser.add_argument("--repetitions", type=int, default=21)
    options = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)  # NumPy's threads too: as they wait they spin, and that would count as the next one's work
    cv2.setNumThreads(1)
    for name, made in (
        ("homography", homographies),
        ("fundamental", fundamentals),
        ("essential", essentials),
        ("pose", poses),
    ):
        seconds: dict[str, list[float]] = {}
        errors: dict[str, list[float]] = {}
        for seed in range(options.repetitions + 1):
            fits, error = made(options.matches, seed)
            for who, fit in fits.items():
                if who == "scikit-image" and seed > 5:
                    continue
                start = time.process_time()
                found = fit()
                seconds.setdefault(who, []).append(time.process_time() - start)
                errors.setdefault(who, []).append(error(np.asarray(found)))
        mine = statistics.median(seconds["ours"][1:])
        print(f"{name}: ours {1000 * mine:.2f} ms, error {statistics.median(errors['ours']):.3f}")
        for who in list(seconds)[1:]:
            other = statistics.median(seconds[who][1:])
            error_of = statistics.median(errors[who])
            print(f"    {who} {1000 * other:.2f} ms, error {error_of:.3f}, ratio of times {mine / other:.2f}")
    print(f"{platform.machine()}, 1 thread, torch {torch.__version__}, OpenCV {cv2.__version__}")


if __name__ == "__main__":
    main()
