r"""Keypoints: pictures against themselves, seen through known random homographies.

    repeatability       of the points seen in both pictures, the share that is found in both, within 3 pixels
    matching_score      correct mutual matches of descriptors as a share of the points seen in both
    homography_success  pairs whose homography RANSAC finds with a mean corner error below 3 pixels
    corner_ap           where corners are known (`keypoints`): average precision of the points, correct within 3 pixels

DeTone, Malisiewicz, Rabinovich: SuperPoint, 2018, arXiv:1712.07629, section 6 and appendix A.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from oculi.classical.ransac import RANSAC
from oculi.data.datasets import Splits, batches
from oculi.geometry.homography import random_homography, warp_by_homography
from oculi.metrics.correspondence import corner_error, matching_score, repeatability
from oculi.ops.matching import match_descriptors
from oculi.predictions import Keypoints
from oculi.system import System, predict
from oculi.types import images_only

RADIUS = 3.0


def score(system: System, splits: Splits, split: str) -> dict[str, float]:
    """Means over the pictures, each with one homography, the same for every system; `points`: found in a picture."""
    generator, ransac = torch.Generator().manual_seed(0), RANSAC(threshold=2.0)
    rows, found = [], []
    for batch in batches(getattr(splits, split), 16):
        height, width = batch.pictures.shape[-2:]
        H = random_homography(len(batch), height, width, generator)
        warped, _ = warp_by_homography(batch.pictures, H)
        firsts, seconds = (predict(system, images_only(pictures)) for pictures in (batch.pictures, warped))
        for first, second, known in zip(firsts, seconds, H, strict=True):
            rows.append(_compared(first, second, known, height, width, ransac))  # type: ignore[arg-type]
        if batch.keypoints is not None:
            truths = [k.flatten(0, 1) for k in batch.keypoints]
            found += [ranked(f, t[t[:, 2] > 0, :2]) for f, t in zip(firsts, truths, strict=True)]  # type: ignore[arg-type]
    names = ("repeatability", "matching_score", "homography_success", "points")
    figures = {name: sum(row[i] for row in rows) / len(rows) for i, name in enumerate(names)}
    return figures | ({"corner_ap": average_precision(found)} if found else {})


def _compared(
    first: Keypoints, second: Keypoints, H: Float[Tensor, "3 3"], height: int, width: int, ransac: RANSAC
) -> tuple[float, float, float, float]:
    before, after = first.points.cpu().double(), second.points.cpu().double()
    pairs = match_descriptors(first.descriptors.cpu(), second.descriptors.cpu())[0]
    repeated = repeatability(before, after, H, height, width, RADIUS)
    matched = matching_score(before, after, pairs, H, height, width, RADIUS)
    success = False
    if len(pairs) >= 4:
        try:
            model = ransac.fit(before[pairs[:, 0]], after[pairs[:, 1]]).model
            success = corner_error(model, H, height, width) < RADIUS
        except ValueError:  # the matches fix no homography
            success = False
    return repeated, matched, float(success), float(len(before))


def ranked(
    found: Keypoints, truth: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, " points"], Float[Tensor, " points"], int]:
    """Scores of the points, best first, which of them are the first to lie at a corner, and how many corners there are."""
    order = found.scores.cpu().argsort(descending=True, stable=True)
    points, scores = found.points.cpu()[order], found.scores.cpu()[order]
    correct = torch.zeros(len(points))
    if len(points) and len(truth):
        near, which = torch.cdist(points, truth.to(points)).min(1)
        first = torch.full((len(truth),), len(points)).scatter_reduce(
            0, which[near <= RADIUS], torch.arange(len(points))[near <= RADIUS], "amin"
        )
        correct[first[first < len(points)]] = 1
    return scores, correct, len(truth)


def average_precision(pictures: list[tuple[Tensor, Tensor, int]]) -> float:
    """Area under precision over recall of all pictures' points, ranked together; 0 where there is no corner."""
    corners = sum(count for _, _, count in pictures)
    scores, correct = torch.cat([p[0] for p in pictures]), torch.cat([p[1] for p in pictures])
    correct = correct[scores.argsort(descending=True, stable=True)].double()
    precision = correct.cumsum(0) / torch.arange(1, len(correct) + 1)
    return float((precision * correct).sum() / max(1, corners))
