"""Two cameras before a cloud of points, with everything that is true of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oculi.geometry.essential import calibrated
from oculi.geometry.pnp import pose_matrix, transformed


@dataclass
class TwoViews:
    K: Tensor
    R: Tensor
    t: Tensor
    world: Tensor  # in the first camera's frame
    points: Tensor  # pixels
    targets: Tensor

    @property
    def rays(self) -> tuple[Tensor, Tensor]:
        return calibrated(self.K, self.points), calibrated(self.K, self.targets)


def two_views(seed: int = 0, n: int = 100, noise: float = 0.0, plane: bool = False, baseline: float = 1.0) -> TwoViews:
    g = torch.Generator().manual_seed(seed)
    world = torch.randn(n, 3, generator=g, dtype=torch.float64) * torch.tensor([1.5, 1.2, 0.0 if plane else 1.0])
    world = world + torch.tensor([0, 0, 7.0])
    if plane:
        world[:, 2] += 0.4 * world[:, 0]
    turn = torch.randn(3, 3, generator=g, dtype=torch.float64) * 0.1
    R = torch.linalg.matrix_exp(turn - turn.T)
    t = torch.randn(3, generator=g, dtype=torch.float64) * torch.tensor([1.0, 1, 0.3])
    t = baseline * t / torch.linalg.norm(t)
    K = torch.tensor([[600.0, 0, 320], [0, 590, 240], [0, 0, 1]], dtype=torch.float64)
    seen = [world @ K.T, transformed(pose_matrix(R, t), world) @ K.T]
    pixels = [s[:, :2] / s[:, 2:] + noise * torch.randn(n, 2, generator=g, dtype=torch.float64) for s in seen]
    return TwoViews(K, R, t, world, *pixels)


def spoilt(views: TwoViews, share: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Points, targets of which the first `share` are random, and which are true."""
    g = torch.Generator().manual_seed(seed)
    targets, wrong = views.targets.clone(), round(share * len(views.points))
    targets[:wrong] = torch.rand(wrong, 2, generator=g, dtype=torch.float64) * torch.tensor([640.0, 480.0])
    return views.points, targets, torch.arange(len(targets)) >= wrong
