r"""Gaussian diffusion in closed form (pure functions; timesteps count from 0, abar_{-1} = 1).

Forward      x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps
Posterior    mu~ = sqrt(abar_{t-1}) b_t / (1 - abar_t) x_0 + sqrt(a_t) (1 - abar_{t-1}) / (1 - abar_t) x_t
             b~  = (1 - abar_{t-1}) / (1 - abar_t) b_t

Loss         ||eps - eps_theta(x_t, t)||^2 at a random step

Ho et al., Denoising Diffusion Probabilistic Models, 2020; Song et al., Denoising Diffusion Implicit Models, 2021.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def linear_betas(steps: int, start: float = 1e-4, end: float = 0.02) -> Tensor:
    """Noise variances rising linearly, shape (steps,).

    >>> linear_betas(3, 0.1, 0.3)
    tensor([0.1000, 0.2000, 0.3000])
    """
    if steps < 1:
        raise ValueError(f"steps: got {steps}, expected at least 1")
    return torch.linspace(start, end, steps)


def paper_betas(steps: int) -> Tensor:
    """DDPM's 1e-4 to 0.02, which is for 1000 steps; other numbers of steps need betas in proportion."""
    return linear_betas(steps, 0.1 / steps, min(20 / steps, 0.999))


def signal_levels(betas: Tensor) -> Tensor:
    """abar_t, the running product of 1 - beta.

    >>> signal_levels(torch.tensor([0.1, 0.2]))
    tensor([0.9000, 0.7200])
    """
    return torch.cumprod(1 - betas, 0)


def _level(alpha_bars: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """abar_t (1 where t < 0), shaped to broadcast over `like`."""
    level = torch.where(t < 0, torch.ones_like(alpha_bars[0]), alpha_bars[t.clamp(min=0)])
    return level.reshape(-1, *[1] * (like.ndim - 1))


def add_noise(x0: Tensor, noise: Tensor, t: Tensor, alpha_bars: Tensor) -> Tensor:
    """A draw of q(x_t | x_0) for given standard noise."""
    level = _level(alpha_bars, t, x0)
    return level.sqrt() * x0 + (1 - level).sqrt() * noise


def noise_loss(network: Callable[[Tensor, Tensor], Tensor], x0: Tensor, alpha_bars: Tensor) -> Tensor:
    """Mean squared error of the noise that `network(x_t, t)` sees, at one random step per picture."""
    t = torch.randint(len(alpha_bars), (len(x0),), device=x0.device)
    noise = torch.randn_like(x0)
    return F.mse_loss(network(add_noise(x0, noise, t, alpha_bars), t), noise)


def clean_from_noise(x: Tensor, noise: Tensor, t: Tensor, alpha_bars: Tensor) -> Tensor:
    """x_0 implied by x_t and its noise."""
    level = _level(alpha_bars, t, x)
    return (x - (1 - level).sqrt() * noise) / level.sqrt()


def posterior(x0: Tensor, x: Tensor, t: Tensor, alpha_bars: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of q(x_{t-1} | x_t, x_0)."""
    level, before = _level(alpha_bars, t, x), _level(alpha_bars, t - 1, x)
    alpha = level / before
    mean = (before.sqrt() * (1 - alpha) * x0 + alpha.sqrt() * (1 - before) * x) / (1 - level)
    return mean, (1 - before) / (1 - level) * (1 - alpha)


def ancestral_step(
    x: Tensor, predicted: Tensor, t: Tensor, alpha_bars: Tensor, noise: Tensor, clip: float | None = 1.0
) -> Tensor:
    """One draw of x_{t-1}; x_0 is clipped to [-clip, clip], no noise is added at t = 0."""
    x0 = clean_from_noise(x, predicted, t, alpha_bars)
    x0 = x0 if clip is None else x0.clamp(-clip, clip)
    mean, variance = posterior(x0, x, t, alpha_bars)
    return mean + variance.sqrt() * noise


def ddim_step(
    x: Tensor, predicted: Tensor, t: Tensor, before: Tensor, alpha_bars: Tensor, clip: float | None = None
) -> Tensor:
    """The deterministic step from t to `before` (-1 is the clean picture)."""
    x0 = clean_from_noise(x, predicted, t, alpha_bars)
    if clip is not None:
        x0 = x0.clamp(-clip, clip)
        level = _level(alpha_bars, t, x)
        predicted = (x - level.sqrt() * x0) / (1 - level).sqrt()
    return add_noise(x0, predicted, before, alpha_bars)
