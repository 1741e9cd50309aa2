r"""RANSAC: random sample consensus, a fit on which outliers have no influence.

Repeat: draw a minimal sample, fit the model to it, count who agrees within a threshold. The best hypothesis wins and
the model is fitted again to its consensus set. With inlier share w and sample size n, a hypothesis is free of
outliers with probability w^n, so that at least one of

    trials = log(1 - p) / log(1 - w^n)          p = 0.99, w = 0.5, n = 4: 72

is, with probability p. w is unknown; it is estimated from the best consensus so far, and the loop stops when the
trials done suffice for it.

    consensus   score = number of matches with error <= t              (Fischler and Bolles)
    msac        score = -sum_i min(e_i^2, t^2)                     (Torr and Zisserman 2000), same cost, finer order

    homography   4 matches, error = distance in the second picture in pixels, fitted by the normalised DLT
    line         2 points,  error = |a x + b y + c| with a^2 + b^2 = 1, fitted by total least squares

Hypotheses are drawn, fitted and scored in batches. Degenerate samples (repeated points, three on a line) lose. Differs
from the paper: batches, the estimate of w, and a few rounds of refitting in which the consensus set may still grow.

Fischler, Bolles: Random Sample Consensus, Communications of the ACM 24(6), 1981.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from oculi.geometry.homography import apply_homography, solve_dlt, transfer_error
from oculi.metrics.correspondence import corner_error


@dataclass
class Consensus:
    """The winning model, who agrees with it, each one's error and the number of trials made."""

    model: Float[Tensor, "..."]
    inliers: Bool[Tensor, " n"]
    errors: Float[Tensor, " n"]
    trials: int


@dataclass(frozen=True)
class _Model:
    size: int
    targets: bool
    fit: Callable[..., tuple[Tensor, Tensor]]
    error: Callable[..., Tensor]


def fit_line(points: Float[Tensor, "*batch n 2"]) -> tuple[Float[Tensor, "*batch 3"], Bool[Tensor, "*batch"]]:
    """(a, b, c) with a x + b y + c = 0, a^2 + b^2 = 1, nearest to the points; and whether they fix it."""
    mean = points.mean(-2)
    centred = points - mean[..., None, :]
    spread, axes = torch.linalg.eigh(centred.transpose(-1, -2) @ centred)
    normal = axes[..., 0]
    line = torch.cat([normal, -(normal * mean).sum(-1, keepdim=True)], -1)
    return line, spread[..., 1] > 1e-12


def line_error(line: Float[Tensor, "*batch 3"], points: Float[Tensor, "*batch n 2"]) -> Float[Tensor, "*batch n"]:
    """Distance of points to the line."""
    return ((points * line[..., None, :2]).sum(-1) + line[..., 2:]).abs()


_MODELS = {
    "homography": _Model(4, True, solve_dlt, transfer_error),
    "line": _Model(2, False, fit_line, line_error),
}


def trials_needed(confidence: float, inlier_share: float, sample_size: int) -> int:
    """log(1 - p) / log(1 - w^n), rounded up: the trials for one outlier-free sample with probability p."""
    for name, value in (("confidence", confidence), ("inlier_share", inlier_share)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: expected a number in [0, 1], got {value}")
    good = inlier_share**sample_size
    if good >= 1:
        return 1
    if good < 1e-15 or confidence >= 1:
        return 2**62
    return max(1, math.ceil(math.log(1 - confidence) / math.log1p(-good)))


class RANSAC:
    """Robust fit of a `homography` to matches or of a `line` to points.

    threshold: largest error of an inlier in the points' unit. confidence: p above. batch: hypotheses per round.
    """

    def __init__(
        self,
        model: Literal["homography", "line"] = "homography",
        threshold: float = 2.0,
        confidence: float = 0.99,
        max_trials: int = 4096,
        batch: int = 64,
        scoring: Literal["msac", "consensus"] = "msac",
        refits: int = 4,
        seed: int = 0,
    ):
        if model not in _MODELS:
            raise ValueError(f"model: expected {' or '.join(_MODELS)}, got {model!r}")
        if scoring not in ("msac", "consensus"):
            raise ValueError(f"scoring: expected msac or consensus, got {scoring!r}")
        if not threshold > 0:
            raise ValueError(f"threshold: expected a positive number, got {threshold}")
        if not 0 < confidence < 1:
            raise ValueError(f"confidence: expected a number in (0, 1), got {confidence}")
        if min(max_trials, batch) < 1:
            raise ValueError(f"max_trials, batch: expected at least 1, got {max_trials} and {batch}")
        self.kind, self.threshold, self.confidence = _MODELS[model], threshold, confidence
        self.max_trials, self.batch, self.scoring, self.refits, self.seed = max_trials, batch, scoring, refits, seed

    def fit(self, points: Float[Tensor, "n 2"], targets: Float[Tensor, "n 2"] | None = None) -> Consensus:
        """The best model and its inliers. Raises ValueError for too few points, NaN, or points that fix no model."""
        data = self._checked(points, targets)
        generator = torch.Generator().manual_seed(self.seed)
        best, best_score, trials, needed = None, -math.inf, 0, self.max_trials
        while trials < min(needed, self.max_trials):
            sample = torch.rand(self.batch, len(points), generator=generator).topk(self.kind.size, 1).indices
            sample = sample.to(points.device)
            models, well_posed = self.kind.fit(*(d[sample] for d in data))
            errors = self.kind.error(models, *(d.expand(self.batch, -1, -1) for d in data))
            scores = torch.where(well_posed, self._score(errors), -math.inf)
            trials += self.batch
            winner = int(scores.argmax())
            if float(scores[winner]) > best_score:
                best, best_score = models[winner], float(scores[winner])
                share = float((errors[winner] <= self.threshold).double().mean())
                needed = trials_needed(self.confidence, share, self.kind.size)
        if best is None:
            raise ValueError(
                f"points: no sample of {self.kind.size} fixes a model (points coincide or lie on one line)"
            )
        return self._refined(best, data, trials)

    def _checked(self, points: Tensor, targets: Tensor | None) -> list[Tensor]:
        if self.kind.targets != (targets is not None):
            wanted = "points and targets" if self.kind.targets else "points alone"
            raise ValueError(f"targets: this model is fitted to {wanted}")
        data = [points] if targets is None else [points, targets]
        for name, value in zip(("points", "targets"), data):
            if value.ndim != 2 or value.shape[1] != 2 or len(value) != len(points):
                raise ValueError(f"{name}: expected {len(points)} x 2, got {tuple(value.shape)}")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name}: expected finite coordinates, got NaN or infinity")
        if len(points) < self.kind.size:
            raise ValueError(f"points: expected at least {self.kind.size}, got {len(points)}")
        return [value.double() for value in data]

    def _score(self, errors: Float[Tensor, "batch n"]) -> Float[Tensor, " batch"]:
        if self.scoring == "consensus":
            return (errors <= self.threshold).double().sum(-1)
        return -errors.clamp_max(self.threshold).square().sum(-1)

    def _refined(self, model: Tensor, data: list[Tensor], trials: int) -> Consensus:
        """Fit again to the inliers as long as that does not lower the score."""
        errors = self.kind.error(model, *data)
        for _ in range(self.refits):
            inliers = errors <= self.threshold
            if int(inliers.sum()) < self.kind.size:
                break
            again, well_posed = self.kind.fit(*(d[inliers] for d in data))
            new_errors = self.kind.error(again, *data)
            if not bool(well_posed) or float(self._score(new_errors[None])) < float(self._score(errors[None])):
                break
            model, errors = again, new_errors
        return Consensus(model, errors <= self.threshold, errors, trials)


def synthetic_matches(
    matches: int, outliers: float, noise: float, seed: int, width: int = 640, height: int = 480
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points, their targets under a random homography with `noise` pixels of error, the truth of inlierhood, and H."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([width, height], dtype=torch.float64)
    corners = size * torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64)
    moved = corners + (torch.rand(4, 2, generator=generator, dtype=torch.float64) - 0.5) * 0.4 * height
    H, _ = solve_dlt(corners, moved)
    points = torch.rand(matches, 2, generator=generator, dtype=torch.float64) * size
    targets = apply_homography(H, points)
    targets = targets + noise * torch.randn(matches, 2, generator=generator, dtype=torch.float64)
    wrong = torch.arange(matches) < round(outliers * matches)
    targets[wrong] = torch.rand(int(wrong.sum()), 2, generator=generator, dtype=torch.float64) * size
    return points, targets, ~wrong, H


def experiment(
    matches: int = 2000, outliers: float = 0.5, noise: float = 0.5, seeds: int = 100, threshold: float = 2.0
) -> dict[str, float]:
    """Share of seeds with a corner error under a pixel, mean IoU of the inliers, and least squares for comparison."""
    errors, overlaps, plain, trials = [], [], [], []
    for seed in range(seeds):
        points, targets, truth, H = synthetic_matches(matches, outliers, noise, seed)
        found = RANSAC(threshold=threshold, seed=seed).fit(points, targets)
        errors.append(corner_error(found.model, H, 480, 640))
        overlaps.append(float((found.inliers & truth).sum() / (found.inliers | truth).sum()))
        plain.append(corner_error(solve_dlt(points, targets)[0], H, 480, 640))
        trials.append(found.trials)
    error = torch.tensor(errors)
    return {
        "success": float((error < 1).double().mean()),
        "inlier_iou": sum(overlaps) / seeds,
        "median_corner_error": float(error.median()),
        "least_squares_corner_error": float(torch.tensor(plain).median()),
        "mean_trials": sum(trials) / seeds,
    }
