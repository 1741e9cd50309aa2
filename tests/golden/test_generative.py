"""Golden numbers of diffusion and embeddings."""

from __future__ import annotations

import torch

from oculi.nn.embeddings import positional_encoding, timestep_embedding
from oculi.ops.diffusion import add_noise, ancestral_step, ddim_step, linear_betas, posterior, signal_levels


def test_posterior_golden() -> None:
    bars = signal_levels(torch.tensor([0.1, 0.2]))
    x0, eps, t = torch.tensor([0.3]), torch.tensor([-0.7]), torch.tensor([1])
    x = add_noise(x0, eps, t, bars)
    mean, variance = posterior(x0, x, t, bars)
    torch.testing.assert_close(variance, torch.tensor([0.0714286]), atol=1e-6, rtol=0)
    torch.testing.assert_close(mean, torch.tensor([0.1662834]), atol=1e-6, rtol=0)
    eps_form = (x - 0.2 / (1 - bars[1]).sqrt() * eps) / 0.8**0.5
    torch.testing.assert_close(mean, eps_form)


def test_positional_encoding_golden() -> None:
    row = positional_encoding(2, 4)[1]
    torch.testing.assert_close(row, torch.tensor([0.8414710, 0.5403023, 0.0099998, 0.9999500]), atol=1e-6, rtol=0)


def test_diffusers_agree() -> None:
    from diffusers import DDIMScheduler, DDPMScheduler
    from diffusers.models.embeddings import get_timestep_embedding

    betas, t = linear_betas(50), torch.tensor([7])
    bars = signal_levels(betas)
    x, eps = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 4, 4)
    ddpm = DDPMScheduler(50, clip_sample=True)
    torch.testing.assert_close(add_noise(x, eps, t, bars), ddpm.add_noise(x, eps, t), atol=1e-5, rtol=0)
    theirs = ddpm.step(eps, 7, x, generator=torch.Generator().manual_seed(0)).prev_sample
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ancestral_step(x, eps, t, bars, noise), theirs, atol=1e-5, rtol=0)
    ddim = DDIMScheduler(50, clip_sample=False, set_alpha_to_one=True)
    ddim.set_timesteps(50)
    theirs = ddim.step(eps, 7, x).prev_sample
    torch.testing.assert_close(ddim_step(x, eps, t, t - 1, bars), theirs, atol=1e-5, rtol=0)
    for width in (8, 9):
        torch.testing.assert_close(
            timestep_embedding(t, width), get_timestep_embedding(t, width, downscale_freq_shift=1), atol=1e-5, rtol=0
        )
