r"""Volume rendering: the colour of a ray through a medium that emits and absorbs, by quadrature.

    a_i = 1 - exp(-sigma_i delta_i)               opacity of the interval delta_i
    T_i = exp(-sum_{j<i} sigma_j delta_j)         transmittance: what reaches sample i; strictly before it, so T_1 = 1
    w_i = T_i a_i,   C = sum_i w_i c_i,   sum_i w_i = 1 - exp(-sum_i sigma_i delta_i)

Everything is differentiable, so a field of densities and colours can be learned from pictures.

Max: Optical Models for Direct Volume Rendering, 1995. Mildenhall et al.: NeRF, 2020, arXiv:2003.08934.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def render_weights(
    density: Float[Tensor, "*rays samples"], interval: Float[Tensor, "*rays samples"]
) -> tuple[Float[Tensor, "*rays samples"], Float[Tensor, "*rays samples"]]:
    """Weights and transmittances of samples in the order of the ray; `density` per metre >= 0, `interval` in metres."""
    if density.shape != interval.shape:
        raise ValueError(f"interval: expected the shape of density {tuple(density.shape)}, got {tuple(interval.shape)}")
    thickness = density * interval
    before = torch.cat([torch.zeros_like(thickness[..., :1]), thickness[..., :-1].cumsum(-1)], -1)
    transmittance = torch.exp(-before)
    return transmittance * -torch.expm1(-thickness), transmittance


def composite(
    weights: Float[Tensor, "*rays samples"], values: Float[Tensor, "*rays samples channels"]
) -> Float[Tensor, "*rays channels"]:
    """sum_i w_i c_i."""
    return (weights[..., None] * values).sum(-2)


def stratified_depths(
    rays: int, samples: int, near: float, far: float, jitter: bool, device: torch.device | str = "cpu"
) -> Float[Tensor, "rays samples"]:
    """One depth in each of `samples` equal bins of [near, far]: at random with `jitter`, else its middle.

    >>> stratified_depths(1, 4, 2.0, 6.0, jitter=False)
    tensor([[2.5000, 3.5000, 4.5000, 5.5000]])
    """
    if not 0 <= near < far:
        raise ValueError(f"near: expected 0 <= near < far, got {near} and {far}")
    inside = torch.rand(rays, samples, device=device) if jitter else torch.full((rays, samples), 0.5, device=device)
    return near + (far - near) * (torch.arange(samples, device=device) + inside) / samples


def importance_depths(
    edges: Float[Tensor, "rays bins_and_one"], weights: Float[Tensor, "rays bins"], samples: int, jitter: bool
) -> Float[Tensor, "rays samples"]:
    """`samples` sorted depths from the piecewise constant density that `weights` give the bins between `edges`."""
    share = weights + 1e-5  # a ray that saw nothing is sampled evenly
    cumulative = (share / share.sum(-1, keepdim=True)).cumsum(-1)
    cumulative = torch.cat([torch.zeros_like(cumulative[..., :1]), cumulative], -1)
    drawn = stratified_depths(len(edges), samples, 0.0, 1.0, jitter, edges.device)
    right = torch.searchsorted(cumulative, drawn, right=True).clamp(1, edges.shape[-1] - 1)
    low, high = cumulative.gather(-1, right - 1), cumulative.gather(-1, right)
    start, end = edges.gather(-1, right - 1), edges.gather(-1, right)
    return start + (end - start) * ((drawn - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)
