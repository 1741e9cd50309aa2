r"""Kalman filter: what is believed about a state after each noisy measurement, and how surely.

The belief is a Gaussian, mean x and covariance P. The state moves by F with noise Q, a measurement shows H x with noise R:

    predict   x <- F x              P <- F P F^T + Q
    update    K = P H^T (H P H^T + R)^{-1}
              x <- x + K (z - H x)  P <- (I - K H) P (I - K H)^T + K R K^T        Joseph's form: P stays symmetric

Extended: motion f and measurement h are functions; F and H are their Jacobians at the mean. Smoothing: once all is
measured, a backward pass (Rauch, Tung, Striebel) tells every state by all measurements,

    G = P_t F^T P~_{t+1}^{-1}      x_t <- x_t + G (x_{t+1} - x~_{t+1})      P_t <- P_t + G (P_{t+1} - P~_{t+1}) G^T

It is the best there is for linear dynamics and well known noise, needs no training and says how sure it is; where dynamics or
noise are unknown, a recurrent network learns what it cannot be told. All functions take leading batch dimensions.

`BayesFilter` follows points that keep their velocity up to white acceleration a: per axis, F = [[1, T], [0, 1]],
Q = a^2 [[T^4 / 4, T^3 / 2], [T^3 / 2, T^2]]. `BoxTracker` keeps such a filter for each of many boxes.

Kalman: A New Approach to Linear Filtering and Prediction Problems, 1960. Rauch, Tung, Striebel 1965. Bewley et al.: Simple
Online and Realtime Tracking, 2016, arXiv:1602.00763 (filters of boxes joined to detections by overlap).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oculi.ops.assignment import assign
from oculi.ops.boxes import box_iou, from_centres, to_centres


@dataclass
class Belief:
    """A Gaussian over the state."""

    mean: Float[Tensor, "*batch s"]
    covariance: Float[Tensor, "*batch s s"]


def predict(belief: Belief, F: Float[Tensor, "*#batch s s"], Q: Float[Tensor, "*#batch s s"]) -> Belief:
    """The belief a step later."""
    return Belief((F @ belief.mean[..., None])[..., 0], F @ belief.covariance @ F.transpose(-1, -2) + Q)


def update(
    belief: Belief,
    measured: Float[Tensor, "*#batch m"],
    H: Float[Tensor, "*#batch m s"],
    R: Float[Tensor, "*#batch m m"],
    expected: Float[Tensor, "*#batch m"] | None = None,
) -> Belief:
    """The belief after a measurement; `expected` is what it should have been, H mean unless given."""
    P = belief.covariance
    if expected is None:
        expected = (H @ belief.mean[..., None])[..., 0]
    S = H @ P @ H.transpose(-1, -2) + R
    K = torch.linalg.solve(S, H @ P).transpose(-1, -2)  # S and P are symmetric
    mean = belief.mean + (K @ (measured - expected)[..., None])[..., 0]
    left = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device) - K @ H
    return Belief(mean, left @ P @ left.transpose(-1, -2) + K @ R @ K.transpose(-1, -2))


def predict_extended(belief: Belief, f: Callable[[Tensor], Tensor], Q: Float[Tensor, "*#batch s s"]) -> Belief:
    """The belief a step later under x <- f(x); f takes one state and is linearised at the mean."""
    moved = predict(belief, _slope(f, belief.mean), Q)
    return Belief(_each(f, belief.mean), moved.covariance)


def update_extended(
    belief: Belief, measured: Float[Tensor, "*#batch m"], h: Callable[[Tensor], Tensor], R: Float[Tensor, "*#batch m m"]
) -> Belief:
    """The belief after a measurement of h(x)."""
    return update(belief, measured, _slope(h, belief.mean), R, _each(h, belief.mean))


def log_likelihood(
    belief: Belief,
    measured: Float[Tensor, "*#batch m"],
    H: Float[Tensor, "*#batch m s"],
    R: Float[Tensor, "*#batch m m"],
) -> Float[Tensor, "*batch"]:
    """log p(z) before the update: how well the measurement fits the belief."""
    S = H @ belief.covariance @ H.transpose(-1, -2) + R
    away = measured - (H @ belief.mean[..., None])[..., 0]
    square = (away * torch.linalg.solve(S, away)).sum(-1)
    return -0.5 * (square + torch.logdet(S) + measured.shape[-1] * math.log(2 * math.pi))


def smooth(beliefs: list[Belief], predicted: list[Belief], F: Float[Tensor, "*#batch s s"]) -> list[Belief]:
    """Beliefs by all measurements. beliefs[t]: after measurement t; predicted[t]: before it, from beliefs[t - 1]."""
    later = beliefs[-1]
    told = [later]
    for own, ahead in zip(reversed(beliefs[:-1]), reversed(predicted[1:]), strict=True):
        G = torch.linalg.solve(ahead.covariance, F @ own.covariance).transpose(-1, -2)
        mean = own.mean + (G @ (later.mean - ahead.mean)[..., None])[..., 0]
        covariance = own.covariance + G @ (later.covariance - ahead.covariance) @ G.transpose(-1, -2)
        later = Belief(mean, covariance)
        told.append(later)
    return told[::-1]


def _each(f: Callable[[Tensor], Tensor], states: Float[Tensor, "*batch s"]) -> Tensor:
    flat = torch.func.vmap(f)(states.reshape(-1, states.shape[-1]))
    return flat.reshape(*states.shape[:-1], *flat.shape[1:])


def _slope(f: Callable[[Tensor], Tensor], states: Float[Tensor, "*batch s"]) -> Tensor:
    return _each(torch.func.jacfwd(f), states)


def constant_velocity(
    axes: int, period: float = 1.0, acceleration: float = 1.0
) -> tuple[Float[Tensor, "s s"], Float[Tensor, "s s"], Float[Tensor, "axes s"]]:
    """F, Q and H of places and velocities, state (x_1 .. x_axes, v_1 .. v_axes), float64.

    >>> constant_velocity(1, 2.0)[0].tolist()
    [[1.0, 2.0], [0.0, 1.0]]
    """
    one, T = torch.eye(axes, dtype=torch.float64), period
    F = torch.cat([torch.cat([one, T * one], 1), torch.cat([0 * one, one], 1)])
    Q = torch.cat([torch.cat([T**4 / 4 * one, T**3 / 2 * one], 1), torch.cat([T**3 / 2 * one, T**2 * one], 1)])
    return F, acceleration**2 * Q, torch.cat([one, 0 * one], 1)


class BayesFilter:
    """Follows points of `axes` coordinates that keep their velocity, several tracks at once.

    noise: standard deviation of a measurement; acceleration: of the velocity's change in a period squared; speed: of the
    velocity before anything is known; period: between measurements.
    """

    def __init__(
        self, axes: int = 2, noise: float = 2.0, acceleration: float = 0.01, speed: float = 2.0, period: float = 1.0
    ):
        if axes < 1:
            raise ValueError(f"axes: expected at least 1, got {axes}")
        for name, value in (("noise", noise), ("speed", speed), ("period", period)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name}: expected a finite number above 0, got {value}")
        if not 0 <= acceleration < math.inf:
            raise ValueError(f"acceleration: expected a finite number of at least 0, got {acceleration}")
        self.axes, self.noise, self.speed = axes, noise, speed
        self.F, self.Q, self.H = constant_velocity(axes, period, acceleration)
        self.R = noise**2 * torch.eye(axes, dtype=torch.float64)

    def start(self, measured: Float[Tensor, "*batch axes"]) -> Belief:
        """What one measurement tells."""
        mean = torch.cat([measured.double(), torch.zeros_like(measured).double()], -1)
        spread = torch.tensor([self.noise] * self.axes + [self.speed] * self.axes, dtype=torch.float64)
        return Belief(mean, torch.diag(spread.square()).expand(*measured.shape[:-1], -1, -1))

    def filter(self, measured: Float[Tensor, "*batch time axes"], smoothed: bool = False) -> list[Belief]:
        """The belief after each measurement, or by all of them. A measurement with NaN is one that was missed."""
        if measured.ndim < 2 or measured.shape[-1] != self.axes or measured.shape[-2] < 1:
            raise ValueError(f"measured: expected ... x time x {self.axes}, got {tuple(measured.shape)}")
        if not bool(torch.isfinite(measured[..., 0, :]).all()) or bool(torch.isinf(measured).any()):
            raise ValueError("measured: expected finite numbers, in the first period without gaps")
        beliefs, predicted = [self.start(measured[..., 0, :])], []
        predicted.append(beliefs[0])
        for z in measured.double().unbind(-2)[1:]:
            ahead = predict(beliefs[-1], self.F, self.Q)
            seen = torch.isfinite(z).all(-1)
            after = update(ahead, torch.where(seen[..., None], z, 0.0), self.H, self.R)
            mean = torch.where(seen[..., None], after.mean, ahead.mean)
            covariance = torch.where(seen[..., None, None], after.covariance, ahead.covariance)
            predicted.append(ahead)
            beliefs.append(Belief(mean, covariance))
        return smooth(beliefs, predicted, self.F) if smoothed else beliefs


@dataclass
class Tracks:
    """Boxes of one frame with the numbers of their tracks; `detection`: the detection each one took, -1 for none."""

    boxes: Float[Tensor, "n 4"]
    numbers: Int[Tensor, " n"]
    detection: Int[Tensor, " n"]


class BoxTracker:
    """Numbers detections through a video: a filter of centre, width and height each, joined by overlap (Hungarian).

    overlap: least IoU to join; patience: frames that a track lives unseen; noise, acceleration: pixels, as above.
    """

    def __init__(self, overlap: float = 0.3, patience: int = 3, noise: float = 2.0, acceleration: float = 0.5):
        if not 0 < overlap <= 1:
            raise ValueError(f"overlap: expected above 0 and at most 1, got {overlap}")
        if patience < 0:
            raise ValueError(f"patience: expected at least 0, got {patience}")
        self.overlap, self.patience = overlap, patience
        self.filter = BayesFilter(4, noise, acceleration, speed=10.0)
        self.belief = self.filter.start(torch.zeros(0, 4))
        self.numbers = self.unseen = torch.zeros(0, dtype=torch.int64)
        self.next = 0

    def step(self, boxes: Float[Tensor, "n 4"]) -> Tracks:
        """Take the next frame's detections; the answer holds every track that lives, seen or not."""
        if not bool(torch.isfinite(boxes).all()):
            raise ValueError("boxes: expected finite corners, got NaN or infinity")
        self.belief = predict(self.belief, self.filter.F, self.filter.Q)
        mine = self._boxes()
        iou = box_iou(mine, boxes.double())
        pairs = assign(-iou[None], torch.ones(1, len(boxes), dtype=torch.bool)) if iou.numel() else None
        track = pairs.query if pairs is not None else torch.zeros(0, dtype=torch.int64)
        found = pairs.truth if pairs is not None else torch.zeros(0, dtype=torch.int64)
        near = iou[track, found] >= self.overlap
        track, found = track[near], found[near]
        detection = torch.full((len(mine),), -1)
        detection[track] = found
        self._see(track, to_centres(boxes.double())[found])
        free = torch.ones(len(boxes), dtype=torch.bool)
        free[found] = False
        detection = torch.cat([detection, free.nonzero()[:, 0]])
        self._begin(to_centres(boxes.double())[free])
        kept = self.unseen <= self.patience
        self.belief = Belief(self.belief.mean[kept], self.belief.covariance[kept])
        self.numbers, self.unseen = self.numbers[kept], self.unseen[kept]
        return Tracks(self._boxes(), self.numbers, detection[kept])

    def _see(self, track: Int[Tensor, " k"], measured: Float[Tensor, "k 4"]) -> None:
        own = Belief(self.belief.mean[track], self.belief.covariance[track])
        after = update(own, measured, self.filter.H, self.filter.R)
        mean, covariance = self.belief.mean.clone(), self.belief.covariance.clone()
        mean[track], covariance[track] = after.mean, after.covariance
        self.belief = replace(self.belief, mean=mean, covariance=covariance)
        self.unseen = self.unseen + 1
        self.unseen[track] = 0

    def _begin(self, measured: Float[Tensor, "k 4"]) -> None:
        new = self.filter.start(measured)
        self.belief = Belief(
            torch.cat([self.belief.mean, new.mean]), torch.cat([self.belief.covariance, new.covariance])
        )
        self.numbers = torch.cat([self.numbers, torch.arange(self.next, self.next + len(measured))])
        self.unseen = torch.cat([self.unseen, torch.zeros(len(measured), dtype=torch.int64)])
        self.next += len(measured)

    def _boxes(self) -> Float[Tensor, "n 4"]:
        centre, size = self.belief.mean[:, :2], self.belief.mean[:, 2:4].clamp_min(1.0)
        return from_centres(torch.cat([centre, size], 1))


# the experiment ------------------------------------------------------------------------------------------------------


def world_tracks(videos: int, frames: int, size: int, speed: float, seed: int = 0) -> Float[Tensor, "videos frames 2"]:
    """Pixels of an object's middle in videos of the World, where it keeps its velocity in metres."""
    from oculi.data.world.scenes import Knobs
    from oculi.data.world.video import WorldVideo

    world = WorldVideo(videos, frames, size, seed, 0, Knobs(objects=(1, 3)), speed)
    tracks = []
    for number in range(videos):
        scenes = world.scenes(number)
        pixels, _ = scenes.cameras(size).project(scenes.center[:, :, :1].permute(1, 2, 0))
        tracks.append(pixels[:, 0])
    return torch.stack(tracks).double()


def experiment(
    videos: int = 50, frames: int = 100, size: int = 256, speed: float = 0.02, noise: float = 2.0, seed: int = 0
) -> dict[str, float]:
    """Objects of the World seen with `noise` pixels: RMS error of the filter and the smoother beside the detections'."""
    truth = world_tracks(videos, frames, size, speed, seed)
    drawn = torch.randn(truth.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    seen = truth + noise * drawn
    system = BayesFilter(noise=noise)

    def rms(places: Tensor) -> float:
        return float((places - truth).square().sum(-1).mean().sqrt())

    filtered = torch.stack([b.mean[..., :2] for b in system.filter(seen)], 1)
    smoothed = torch.stack([b.mean[..., :2] for b in system.filter(seen, smoothed=True)], 1)
    raw = rms(seen)
    return {
        "ratio": rms(filtered) / raw,
        "smoothed_ratio": rms(smoothed) / raw,
        "rms": rms(filtered),
        "raw_rms": raw,
        "moved": float((truth[:, -1] - truth[:, 0]).norm(dim=-1).mean()),
    }
