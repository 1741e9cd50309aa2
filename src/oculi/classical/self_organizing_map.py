r"""Self-organising map: prototypes on a grid, so that neighbours on the grid are alike; a two-dimensional map of the data.

For each x in turn the nearest prototype wins, and it and its neighbours move towards x:

    w_g <- w_g + a(t) exp(-||g - winner||^2 / (2 s(t)^2)) (x - w_g)          g a place on the grid
    a(t) = a / (1 + 2 t / T),  s(t) = s / (1 + 2 t / T)

so that at the end both are a third of what they were.

    quantization error   mean ||x - w_winner||
    topographic error    share of x whose two nearest prototypes are no neighbours on the grid (diagonals count)

Kohonen: Self-organized formation of topologically correct feature maps, 1982.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


class SelfOrganizingMap:
    """A `rows` x `columns` map. rate, radius: a and s above. After `fit`: `prototypes`, rows x columns x d."""

    def __init__(self, rows: int = 8, columns: int = 8, rate: float = 0.5, radius: float = 1.5, seed: int = 0):
        if min(rows, columns) < 1:
            raise ValueError(f"rows, columns: expected at least 1, got {rows} and {columns}")
        if not (rate > 0 and radius > 0):
            raise ValueError(f"rate, radius: expected above 0, got {rate} and {radius}")
        self.rows, self.columns, self.rate, self.radius, self.seed = rows, columns, rate, radius, seed
        self.prototypes: Float[Tensor, "rows columns d"] | None = None

    def fit(
        self,
        features: Float[Tensor, "n d"],
        steps: int = 5000,
        start: Float[Tensor, "rows columns d"] | None = None,
        shuffle: bool = True,
    ) -> SelfOrganizingMap:
        """Show `steps` points, in random order or in turn; the prototypes start as points of the data or as `start`."""
        if features.ndim != 2 or not len(features) or not bool(torch.isfinite(features).all()):
            raise ValueError(f"features: expected finite numbers n x d, got shape {tuple(features.shape)} or NaN")
        x = features.double()
        generator = torch.Generator().manual_seed(self.seed)
        if start is None:
            drawn = torch.randint(len(x), (self.rows * self.columns,), generator=generator)
            start = x[drawn].unflatten(0, (self.rows, self.columns))
        if start.shape != (self.rows, self.columns, x.shape[1]):
            wanted = (self.rows, self.columns, x.shape[1])
            raise ValueError(f"start: expected {wanted}, got {tuple(start.shape)}")
        w = start.double().flatten(0, 1).clone()
        order = torch.arange(steps) % len(x)
        if shuffle:
            order = torch.randint(len(x), (steps,), generator=generator)
        grid = self._grid().double()
        apart = (grid[:, None] - grid).square().sum(-1)
        for t, i in enumerate(order.tolist()):
            fading = 1 / (1 + 2 * t / steps)
            winner = int((w - x[i]).square().sum(1).argmin())
            pull = self.rate * fading * torch.exp(-apart[winner] / (2 * (self.radius * fading) ** 2))
            w += pull[:, None] * (x[i] - w)
        self.prototypes = w.unflatten(0, (self.rows, self.columns))
        return self

    def winners(self, features: Float[Tensor, "n d"], nearest: int = 1) -> Int[Tensor, "n nearest 2"]:
        """Row and column of the nearest prototypes of each point."""
        distance = torch.cdist(features.double(), self._trained().flatten(0, 1))
        number = distance.topk(nearest, 1, largest=False).indices
        return torch.stack([number // self.columns, number % self.columns], -1)

    def quantization_error(self, features: Float[Tensor, "n d"]) -> float:
        """Mean distance of a point to its prototype."""
        return float(torch.cdist(features.double(), self._trained().flatten(0, 1)).amin(1).mean())

    def topographic_error(self, features: Float[Tensor, "n d"]) -> float:
        """Share of the points whose two nearest prototypes are not neighbours."""
        first, second = self.winners(features, 2).unbind(1)
        return float(((first - second).abs().amax(-1) > 1).double().mean())

    def _trained(self) -> Tensor:
        if self.prototypes is None:
            raise ValueError("prototypes: expected a call of fit before")
        return self.prototypes

    def _grid(self) -> Int[Tensor, "places 2"]:
        return torch.cartesian_prod(torch.arange(self.rows), torch.arange(self.columns)).view(-1, 2)
