r"""Nonlinear least squares: Levenberg-Marquardt on a batch of small dense problems.

    minimise  1/2 ||r(p)||^2        (J^T J + lambda D) step = -J^T r        D = diag(J^T J)

Small lambda is Gauss and Newton's step, large lambda a short step downhill; lambda falls by how well the linear model
foretold the gain (Nielsen) and doubles faster and faster while steps fail. Every problem of the batch has its own lambda
and stops on its own: slope, step or gain below `tolerance`. Float64 throughout.

Levenberg 1944; Marquardt 1963; Nielsen: Damping Parameter in Marquardt's Method, 1999.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass
class LeastSquares:
    """Where it ended. `cost` is half the sum of squares; `jacobian` and `residuals` are those at `parameters`."""

    parameters: Float[Tensor, "batch p"]
    cost: Float[Tensor, " batch"]
    residuals: Float[Tensor, "batch r"]
    jacobian: Float[Tensor, "batch r p"]
    converged: Bool[Tensor, " batch"]
    steps: int


def levenberg_marquardt(
    residuals: Callable[..., Tensor],
    start: Float[Tensor, "batch p"],
    *data: Tensor,
    jacobian: Callable[..., Tensor] | None = None,
    steps: int = 100,
    tolerance: float = 1e-12,
    damping: float = 1e-3,
) -> LeastSquares:
    """Minimise ||residuals(p, *own data)||^2 from each row of `start`.

    residuals: one problem's parameters (p) and its slices of `data` to its residuals (r), fit for `torch.func.vmap`.
    jacobian: the same arguments to r x p; by forward differentiation where None. Raises ValueError where the start gives
    residuals that are not finite.
    """
    own = residuals if not data else lambda p, *d: residuals(p, *d)
    value = torch.func.vmap(own)
    slope = torch.func.vmap(jacobian or torch.func.jacfwd(own))
    p = start.detach().double()
    given = [d.double() if d.is_floating_point() else d for d in data]
    r = value(p, *given)
    if not bool(torch.isfinite(r).all()):
        raise ValueError("start: expected parameters with finite residuals, got NaN or infinity")
    J = slope(p, *given)
    cost = 0.5 * r.square().sum(-1)
    lam, growth = torch.full_like(cost, damping), torch.full_like(cost, 2.0)
    done = torch.zeros_like(cost, dtype=torch.bool)
    taken = 0
    while taken < steps and not bool(done.all()):
        taken += 1
        gradient = (J.transpose(-1, -2) @ r[..., None])[..., 0]
        step, gain = _solve(J, gradient, lam)
        tried = torch.where(done[:, None], p, p + step)
        new = value(tried, *given)
        new_cost = torch.nan_to_num(0.5 * new.square().sum(-1), nan=torch.inf)
        better = (new_cost < cost) & ~done
        share = ((cost - new_cost) / gain.clamp_min(1e-300)).clamp(-1e3, 1e3)
        small = step.abs().amax(-1) <= tolerance * (1 + p.abs().amax(-1))
        flat = better & (cost - new_cost <= tolerance * cost)
        p, cost, r = (torch.where(_like(better, b), a, b) for a, b in ((tried, p), (new_cost, cost), (new, r)))
        lam = torch.where(better, lam * (1 - (2 * share - 1) ** 3).clamp_min(1 / 3), lam * growth).clamp(1e-15, 1e15)
        growth = torch.where(better, 2.0, growth * 2).clamp_max(2.0**30)
        done = done | small | flat | (gain <= tolerance * cost) | (lam >= 1e15)
        if bool(better.any()):
            J = slope(p, *given)
    return LeastSquares(p, cost, r, J, done, taken)


def _solve(
    J: Float[Tensor, "batch r p"], gradient: Float[Tensor, "batch p"], lam: Float[Tensor, " batch"]
) -> tuple[Float[Tensor, "batch p"], Float[Tensor, " batch"]]:
    """The damped step, in parameters scaled so that J^T J has ones on its diagonal, and the gain that J foretells."""
    scale = J.square().sum(-2).sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    scaled = J / scale[:, None]
    normal = scaled.transpose(-1, -2) @ scaled
    damped = normal + lam[:, None, None] * torch.eye(J.shape[-1], dtype=J.dtype, device=J.device)
    factor, failed = torch.linalg.cholesky_ex(damped)
    right = (gradient / scale)[..., None]
    safe = torch.where((failed > 0)[:, None, None], torch.eye(J.shape[-1], dtype=J.dtype, device=J.device), factor)
    step = -torch.cholesky_solve(right, safe)[..., 0]
    step = torch.where((failed > 0)[:, None], torch.zeros_like(step), step)
    gain = 0.5 * (step * (lam[:, None] * step - gradient / scale)).sum(-1)
    gain = torch.where(failed > 0, torch.inf, gain)
    return torch.where((failed > 0)[:, None], torch.full_like(step, torch.nan), step / scale), gain


def _like(mask: Tensor, values: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (values.ndim - 1))
