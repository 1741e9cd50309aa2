r"""RANSAC: random sample consensus, a fit on which outliers have no influence.

Repeat: draw a minimal sample, fit the model to it, count who agrees within a threshold. The best hypothesis wins and
the model is fitted again to its consensus set. With inlier share w and sample size n, a hypothesis is free of
outliers with probability w^n, so that at least one of

    trials = log(1 - p) / log(1 - w^n)          p = 0.99, w = 0.5, n = 4: 72

is, with probability p. w is unknown; it is estimated from the best consensus so far, and the loop stops when the
trials done suffice for it.

    consensus   cost = number of data with error > t               (Fischler and Bolles)
    msac        cost = sum_i min(e_i^2, t^2)                       (Torr and Zisserman 2000), same work, finer order

Each new best is optimised on the spot (LO-RANSAC): fitted again to its consensus set as long as that lowers the cost,
so that the estimate of w does not suffer from the noise of a minimal sample. Hypotheses are drawn, solved and scored in
batches: all on a part of the data, the best few of them on all data. What can be fitted stands in `ransac_models`.

A consensus must be larger than chance would make it. If k of N data agree, and a datum that has nothing to do with the
model agrees with probability a, then (N - n) C(N, k) C(k, n) a^(k - n) such sets are to be expected in noise; from one
on, there is no consensus (Moisan, Stival 2004).

Differs from the paper: batches, the estimate of w, refitting of each best, the test against chance.

Fischler, Bolles: Random Sample Consensus, Communications of the ACM 24(6), 1981. Chum, Matas, Kittler: Locally
optimized RANSAC, DAGM 2003.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oculi.classical.ransac_models import MODELS, Model, essential
from oculi.data.world import views
from oculi.geometry.camera import Camera
from oculi.geometry.epipolar import epipolar_distance
from oculi.geometry.essential import calibrated, relative_pose
from oculi.geometry.homography import apply_homography, solve_dlt
from oculi.metrics.correspondence import corner_error

SCREEN, FINALISTS = 128, 3  # data on which all hypotheses of a batch are scored, and how many of them on all data


@dataclass
class Consensus:
    """The winning model, who agrees with it, each one's error and the number of trials made."""

    model: Float[Tensor, "..."]
    inliers: Bool[Tensor, " n"]
    errors: Float[Tensor, " n"]
    trials: int


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


def expected_by_chance(inliers: int, total: int, sample_size: int, chance: float) -> float:
    """Logarithm of how many consensus sets of this size unrelated data would have (see above)."""
    if inliers <= sample_size:
        return math.inf
    ways = math.lgamma(total + 1) - math.lgamma(total - inliers + 1)
    ways -= math.lgamma(sample_size + 1) + math.lgamma(inliers - sample_size + 1)
    return math.log(max(total - sample_size, 1)) + ways + (inliers - sample_size) * math.log(chance)


class RANSAC:
    """Robust fit of a `homography`, `fundamental`, `essential`, `pose`, `line` or `regression`, or of a `Model`.

    threshold: largest error of an inlier in the data's unit. confidence: p above. batch: hypotheses of the first
    round, later rounds are larger. refits: of each new best, at most.
    """

    def __init__(
        self,
        model: str | Model = "homography",
        threshold: float = 2.0,
        confidence: float = 0.99,
        max_trials: int = 4096,
        batch: int = 96,
        scoring: Literal["msac", "consensus"] = "msac",
        refits: int = 6,
        seed: int = 0,
    ):
        if isinstance(model, str) and model not in MODELS:
            raise ValueError(f"model: expected {', '.join(MODELS)} or a Model, got {model!r}")
        if scoring not in ("msac", "consensus"):
            raise ValueError(f"scoring: expected msac or consensus, got {scoring!r}")
        if not threshold > 0:
            raise ValueError(f"threshold: expected a positive number, got {threshold}")
        if not 0 < confidence < 1:
            raise ValueError(f"confidence: expected a number in (0, 1), got {confidence}")
        if min(max_trials, batch) < 1:
            raise ValueError(f"max_trials, batch: expected at least 1, got {max_trials} and {batch}")
        self.model, self.threshold, self.confidence = (
            MODELS[model]() if isinstance(model, str) else model,
            threshold,
            confidence,
        )
        self.limit = torch.tensor(threshold**2, dtype=torch.float64)
        self.max_trials, self.batch, self.scoring, self.refits, self.seed = max_trials, batch, scoring, refits, seed

    def fit(self, points: Float[Tensor, "n columns"], targets: Float[Tensor, "n 2"] | None = None) -> Consensus:
        """The best model and its inliers, computed in float64 on the CPU.

        Raises ValueError for too few points, NaN, points that fix no model, or where no more agree than by chance.
        """
        with torch.inference_mode():  # a tenth less time than without gradient alone
            model, inliers, errors, trials = self._fit(points, targets)
        model, inliers, errors = (part.clone().to(points.device) for part in (model, inliers, errors))
        return Consensus(model, inliers, errors, trials)

    def _fit(self, points: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor, Tensor, int]:
        data = self._checked(points, targets)
        generator = torch.Generator().manual_seed(self.seed)
        few = _rows(data, torch.randperm(len(points), generator=generator)[:SCREEN])
        best, best_cost, trials, count, needed = None, math.inf, 0, self.batch, self.max_trials
        while trials < min(needed, self.max_trials):
            count = min(count, self.max_trials - trials)
            models, usable = self.model.solve(*self._samples(data, count, generator))
            trials += count
            found = self._winner(models.flatten(0, 1)[usable.flatten()], data, few)
            if found is not None and found[2] < best_cost:
                best, errors, best_cost = self._optimised(*found, data)
                share = float((errors <= self.limit).sum()) / len(points)
                needed = trials_needed(self.confidence, share, self.model.size)
            count = min(max(needed - trials, 16), 2 * count, 1024)
        if best is None:
            raise ValueError(
                f"points: no sample of {self.model.size} fixes a model"
                " (points coincide, lie on one line or plane, or did not move)"
            )
        settled = self._settled(best, errors <= self.limit, data)
        if settled is not best:
            errors = self.model.squared_error(settled[None], *data)[0]
        return settled, errors <= self.limit, errors.sqrt(), trials

    def _checked(self, points: Tensor, targets: Tensor | None) -> list[Tensor]:
        columns = self.model.columns
        if (len(columns) == 2) != (targets is not None):
            wanted = "points and targets" if len(columns) == 2 else "points alone"
            raise ValueError(f"targets: this model is fitted to {wanted}")
        data = [points] if targets is None else [points, targets]
        for name, value, width in zip(("points", "targets"), data, columns):
            if value.ndim != 2 or value.shape[1] != width or len(value) != len(points):
                raise ValueError(f"{name}: expected {len(points)} x {width}, got {tuple(value.shape)}")
        data = [value.cpu().double().T.contiguous().T for value in data]  # errors read x's and y's one after the other
        for name, value in zip(("points", "targets"), data):
            if not math.isfinite(value.sum()):  # as every coordinate is then
                raise ValueError(f"{name}: expected finite coordinates, got NaN or infinity")
        if len(points) < self.model.size:
            raise ValueError(f"points: expected at least {self.model.size}, got {len(points)}")
        return data

    def _samples(self, data: list[Tensor], count: int, generator: torch.Generator) -> list[Tensor]:
        """Minimal samples without repetition; among many data repetitions are rare, and lose as degenerate."""
        n, size = len(data[0]), self.model.size
        if n > 100 * size:
            index = torch.randint(n, (count, size), generator=generator)
        else:  # cut from random orders of all data
            each = n // size
            orders = torch.rand(-(-count // each), n, generator=generator).argsort(1)
            index = orders[:, : each * size].reshape(-1, size)[:count]
        return [d[index] for d in data]

    def _cost(self, squared: Float[Tensor, "*m n"]) -> Float[Tensor, "*m"]:
        if self.scoring == "consensus":
            return (~(squared <= self.limit)).sum(-1).double()
        return torch.fmin(squared, self.limit).sum(-1)  # NaN counts as far away

    def _winner(
        self, models: Float[Tensor, "m ..."], data: list[Tensor], few: list[Tensor]
    ) -> tuple[Tensor, Tensor, float] | None:
        """The best of several models, its squared errors and its cost."""
        if len(models) > FINALISTS and len(few[0]) < len(data[0]):
            costs = self._cost(self.model.squared_error(models, *few))
            models = models[costs.topk(FINALISTS, largest=False).indices]
        if not len(models):
            return None
        squared = self.model.squared_error(models, *data)
        cost, winner = self._cost(squared).min(0)
        return models[winner], squared[winner], float(cost)

    def _optimised(
        self, model: Tensor, squared: Tensor, cost: float, data: list[Tensor]
    ) -> tuple[Tensor, Tensor, float]:
        """Fit again to the inliers as long as that lowers the cost."""
        if self.model.descend is not None and self.refits:
            tried = self.model.descend(model, self.threshold, self.refits, *data)
            new_squared = self.model.squared_error(tried[None], *data)[0]
            new_cost = float(self._cost(new_squared))
            return (tried, new_squared, new_cost) if new_cost <= cost else (model, squared, cost)
        for _ in range(self.refits):
            inliers = (squared <= self.limit).nonzero()[:, 0]
            if len(inliers) <= self.model.size:
                break
            tried = self.model.refit(model, *_rows(data, inliers))
            new_squared = self.model.squared_error(tried[None], *data)[0]
            new_cost = float(self._cost(new_squared))
            if not new_cost < cost and not (self.scoring == "consensus" and new_cost == cost):
                break
            settled = new_cost > 0.999 * cost and self.scoring == "msac"
            model, squared, cost = tried, new_squared, new_cost
            if settled:
                break
        return model, squared, cost

    def _settled(self, model: Tensor, inliers: Bool[Tensor, " n"], data: list[Tensor]) -> Tensor:
        """The model that the consensus fixes. Raises ValueError where it fixes none, or where chance explains it."""
        which, total = inliers.nonzero()[:, 0], len(inliers)
        chance = self.model.chance(self.threshold, *data)
        if len(which) < total and expected_by_chance(len(which), total, self.model.size, chance) > 0:
            raise ValueError(
                f"points: no consensus; {len(which)} of {total} agree on the best model, as many as by chance"
            )
        return self.model.settled(self.threshold, model, *_rows(data, which))


def _rows(data: list[Tensor], which: Int[Tensor, " k"]) -> list[Tensor]:
    """Some rows of data whose columns are what lies together in memory."""
    return [d.T.index_select(1, which).T for d in data]


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


def world_pair(number: int, outliers: float, noise: float, matches: int = 500) -> tuple[Tensor, Tensor, Camera, Camera]:
    """Matches between two World pictures, made of depth and cameras, `noise` pixels off, and random ones; the cameras."""
    g = torch.Generator().manual_seed(number)
    one, two = views.pictures(12, 128, number)[4:6]
    assert one.camera is not None
    assert two.camera is not None
    assert one.depth is not None
    cameras = [Camera(c.K.double(), c.world_to_camera.double(), c.height, c.width) for c in (one.camera, two.camera)]
    origin, direction = cameras[0].rays()
    depth = one.depth.double().flatten()
    places = torch.isfinite(depth).nonzero()[:, 0]
    places = places[torch.randperm(len(places), generator=g)[:matches]]
    world = origin[places] + depth[places, None] * direction[places]
    points, targets = (c.project(world)[0] for c in cameras)
    targets = targets + noise * torch.randn(targets.shape, generator=g, dtype=torch.float64)
    wrong = round(outliers * len(targets))
    targets[:wrong] = 128 * torch.rand(wrong, 2, generator=g, dtype=torch.float64)
    return points, targets, cameras[0], cameras[1]


def two_view_errors(pairs: int, outliers: float = 0.4, noise: float = 0.1) -> dict[str, float]:
    """Largest errors over World pairs: median epipolar distance in pixels, rotation and direction of t in degrees."""
    distances, turns, shifts = [0.0], [0.0], [0.0]
    for number in range(pairs):
        points, targets, one, two = world_pair(number, outliers, noise)
        wrong = round(outliers * len(points))
        F = RANSAC("fundamental", threshold=0.5, seed=number).fit(points, targets).model
        distances.append(float(epipolar_distance(F, points[wrong:], targets[wrong:]).median()))
        found = RANSAC(essential(one.K, two.K), threshold=0.5, seed=number).fit(points, targets)
        rays = calibrated(one.K, points), calibrated(two.K, targets)
        R, t, _ = relative_pose(found.model, *rays, found.inliers.double())
        truth = two.world_to_camera @ torch.linalg.inv(one.world_to_camera)
        direction = truth[:3, 3] / torch.linalg.norm(truth[:3, 3])
        turns.append(float(torch.linalg.matrix_norm(R - truth[:3, :3])) / math.sqrt(2))
        shifts.append(float(torch.linalg.norm(t - direction)))
    return {
        "epipolar_distance": max(distances),
        "rotation_error": math.degrees(max(turns)),
        "translation_error": math.degrees(max(shifts)),
    }


def experiment(
    matches: int = 2000,
    outliers: float = 0.5,
    noise: float = 0.5,
    seeds: int = 100,
    threshold: float = 2.0,
    pairs: int = 12,
) -> dict[str, float]:
    """Share of seeds with a corner error under a pixel, mean IoU of the inliers, and least squares for comparison.

    Beside the homographies, fundamental and essential matrices of pairs of World pictures.
    """
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
        **two_view_errors(pairs),
    }
