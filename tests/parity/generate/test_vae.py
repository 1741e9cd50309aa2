"""The VAE's divergence and its sampling trick against torch, diffusers and what is known exactly."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch.distributions import Normal, kl_divergence

from oculi.generate.vae import VAE, gaussian_kl
from oculi.types import Batch


def test_divergence_equals_torch_and_diffusers() -> None:
    mean, log_variance = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    theirs = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(gaussian_kl(mean, log_variance), theirs)
    moments = torch.cat([mean, log_variance], 1)[:, :, None, None]
    torch.testing.assert_close(gaussian_kl(mean, log_variance), DiagonalGaussianDistribution(moments).kl())
    assert float(gaussian_kl(torch.zeros(1, 3), torch.zeros(1, 3))) == 0


def test_gradients_through_the_sample_are_right_and_vary_less_than_the_score_functions() -> None:
    torch.manual_seed(0)
    mu, sigma = torch.tensor(0.7, requires_grad=True), torch.tensor(1.3, requires_grad=True)
    z = mu + sigma * torch.randn(200_000)
    by_mu, by_sigma = torch.autograd.grad(z.square().mean(), (mu, sigma))
    assert float(by_mu) == pytest.approx(2 * 0.7, rel=0.02)
    assert float(by_sigma) == pytest.approx(2 * 1.3, rel=0.02)
    with torch.no_grad():
        path = 2 * z
        score = z.square() * (z - mu) / sigma**2
    assert float(score.mean()) == pytest.approx(2 * 0.7, rel=0.1)
    assert float(path.var()) < 0.5 * float(score.var())


def test_the_encoders_spread_gets_a_gradient_from_the_reconstruction() -> None:
    torch.manual_seed(0)
    system = VAE(image_size=8, latent=4, width=16)
    system.loss(Batch(image=torch.rand(4, 1, 8, 8)))["reconstruction"].backward()
    last = system.encoder[-1].weight.grad
    assert last is not None
    assert bool((last[4:].abs().sum(1) > 0).all())  # the rows that give log sigma²
