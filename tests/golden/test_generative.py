"""Golden numbers of diffusion and embeddings."""

from __future__ import annotations

import torch

from oculi.nn.embeddings import positional_encoding
from oculi.ops.diffusion import add_noise, posterior, signal_levels


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
