r"""K-means: K prototypes, each the mean of the points that are nearer to it than to the others.

    assign   z_i = argmin_k ||x_i - c_k||^2
    mean     c_k = mean of x_i with z_i = k                    in turn, until nothing changes
    inertia  sum_i ||x_i - c_{z_i}||^2                         neither step can raise it

It ends in a local minimum, so several starts run side by side and the best wins. A start is k-means++: the first centre is
a point at random, every next one a point drawn with probability proportional to its squared distance to the nearest
centre so far (the best of 2 + ln K draws, as scikit-learn does). A centre that loses all its points takes over the one
that is farthest from its own centre.

    features   n x d;  centers  K x d;  labels  n

Differs from the paper: starts in one batch, greedy k-means++. Ties go to the lower number.

Lloyd: Least squares quantization in PCM, 1982. Arthur, Vassilvitskii: k-means++, 2007.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oculi.metrics.clustering import normalised_mutual_information


@dataclass
class Clusters:
    """A partition and its prototypes. `history`: the inertia after each assignment."""

    centers: Float[Tensor, "k d"]
    labels: Int[Tensor, " n"]
    inertia: float
    history: list[float]


def squared_distances(x: Float[Tensor, "*#b n d"], c: Float[Tensor, "*#b k d"]) -> Float[Tensor, "*b n k"]:
    """||x_i - c_k||^2 >= 0 by the binomial formula."""
    cross = x @ c.transpose(-1, -2)
    square = (x * x).sum(-1)[..., None] + (c * c).sum(-1)[..., None, :] - 2 * cross
    return square.clamp_min(0)


class KMeans:
    """Partition into `clusters` groups; the best of `starts` runs.

    After `fit`: `found`, and `predict` for new points.
    """

    def __init__(self, clusters: int = 10, starts: int = 10, steps: int = 300, tolerance: float = 1e-4, seed: int = 0):
        if min(clusters, starts, steps) < 1:
            raise ValueError(f"clusters, starts, steps: expected at least 1, got {clusters}, {starts} and {steps}")
        if not tolerance >= 0:
            raise ValueError(f"tolerance: expected at least 0, got {tolerance}")
        self.clusters, self.starts, self.steps, self.tolerance, self.seed = clusters, starts, steps, tolerance, seed
        self.found: Clusters | None = None

    def fit(
        self, features: Float[Tensor, "n d"], start: Float[Tensor, "starts k d"] | Float[Tensor, "k d"] | None = None
    ) -> Clusters:
        """The best partition, from `start` centres where they are given. ValueError for NaN or too few different points."""
        x = _checked(features, self.clusters)
        middle = x.mean(0)
        x = x - middle  # shorter vectors round less
        if start is None:
            centers = self._starts(x)
        else:
            centers = (start if start.ndim == 3 else start[None]).double() - middle
            if centers.shape[1:] != (self.clusters, x.shape[1]) or not bool(torch.isfinite(centers).all()):
                raise ValueError(f"start: expected {self.clusters} finite centres, got {tuple(start.shape)}")
        limit = self.tolerance * float(x.var(0, unbiased=False).mean())
        history = []
        for _ in range(self.steps):
            distance, labels = squared_distances(x, centers).min(-1)
            history.append(distance.sum(-1))
            moved = _means(x, labels, distance, centers)
            change = (moved - centers).square().sum((-1, -2))
            centers = moved
            if float(change.max()) <= limit:
                break
        distance, labels = squared_distances(x, centers).min(-1)
        history.append(distance.sum(-1))
        best = int(history[-1].argmin())
        exact = float((x - centers[best][labels[best]]).square().sum())
        self.found = Clusters(
            (centers[best] + middle).to(features), labels[best], exact, [float(h[best]) for h in history]
        )
        return self.found

    def predict(self, features: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
        """The nearest prototype's number."""
        if self.found is None:
            raise ValueError("predict: expected a call of fit before")
        return squared_distances(features.double(), self.found.centers.double()).argmin(-1)

    def _starts(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "starts k d"]:
        """Greedy k-means++ for all starts side by side."""
        generator = torch.Generator().manual_seed(self.seed)
        tries = 2 + int(math.log(self.clusters))
        first = torch.randint(len(x), (self.starts,), generator=generator)
        chosen = [first]
        nearest = squared_distances(x, x[first][:, None]).squeeze(-1)  # starts n
        for _ in range(1, self.clusters):
            weights = nearest + (nearest.sum(1, keepdim=True) == 0)
            drawn = torch.multinomial(weights, tries, replacement=True, generator=generator)  # starts tries
            tried = torch.minimum(nearest[:, None], squared_distances(x[drawn], x))
            best = tried.sum(-1).argmin(1)
            chosen.append(drawn.gather(1, best[:, None])[:, 0])
            nearest = tried[torch.arange(self.starts), best]
        return x[torch.stack(chosen, 1)]


def _means(
    x: Float[Tensor, "n d"], labels: Int[Tensor, "s n"], distance: Float[Tensor, "s n"], centers: Float[Tensor, "s k d"]
) -> Float[Tensor, "s k d"]:
    """Means of the groups; an empty group takes the point farthest from its centre, each another one."""
    clusters = centers.shape[1]
    member = torch.nn.functional.one_hot(labels, clusters).to(x)  # s n k
    count = member.sum(1)
    total = member.transpose(1, 2) @ x
    empty = count == 0
    for s in empty.any(1).nonzero()[:, 0].tolist():
        groups = empty[s].nonzero()[:, 0]
        points = distance[s].topk(len(groups)).indices
        total[s].index_add_(0, labels[s, points], -x[points])
        count[s].index_add_(0, labels[s, points], -torch.ones(len(points), dtype=count.dtype))
        total[s, groups], count[s, groups] = x[points], 1.0
    safe = count.clamp_min(1)[..., None]
    return torch.where(count[..., None] > 0, total / safe, centers)


def _checked(features: Tensor, clusters: int) -> Float[Tensor, "n d"]:
    if features.ndim != 2 or not bool(torch.isfinite(features).all()):
        raise ValueError(f"features: expected finite numbers n x d, got shape {tuple(features.shape)} or NaN")
    different = len(torch.unique(features, dim=0))
    if different < clusters:
        raise ValueError(f"features: expected at least {clusters} different points, got {different}")
    return features.double()


def experiment(clusters: int = 10, starts: int = 10, seed: int = 0) -> dict[str, float]:
    """Handwritten digits, all 1,797 as 64 grey values of 0 to 16: inertia, and agreement with the labels."""
    x, labels = digits()
    found = KMeans(clusters, starts, seed=seed).fit(x)
    rises = [b - a for a, b in zip(found.history, found.history[1:])]
    return {
        "inertia": found.inertia,
        "nmi": normalised_mutual_information(found.labels, labels),
        "largest_rise": max([0.0, *rises]),
        "steps": float(len(found.history)),
    }


def digits() -> tuple[Float[Tensor, "n 64"], Int[Tensor, " n"]]:
    """Grey values 0 to 16 and labels of scikit-learn's digits, in its order; float64."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.from_numpy(bunch.data).double(), torch.from_numpy(bunch.target).long()
