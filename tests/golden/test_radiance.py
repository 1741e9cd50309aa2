"""Worked numbers of radiance fields."""

from __future__ import annotations

import math

import torch

from oculi.nn.fourier import positional_encoding
from oculi.ops.volume_rendering import render_weights


def test_volume_rendering():
    density = torch.tensor([1.0, 2.0, 3.0])
    weights, transmittance = render_weights(density, torch.full((3,), 0.5))
    torch.testing.assert_close(transmittance, torch.tensor([1.0, 0.606531, 0.223130]), atol=1e-6, rtol=0)
    torch.testing.assert_close(weights / transmittance, torch.tensor([0.393469, 0.632121, 0.776870]), atol=1e-6, rtol=0)
    torch.testing.assert_close(weights.sum(), torch.tensor(1 - math.exp(-3)), atol=1e-6, rtol=0)


def test_positional_encoding():
    encoded = positional_encoding(torch.tensor([[0.0], [0.5], [1.0]]), 2)
    expected = torch.tensor([[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, -1.0], [0.0, -1.0, 0.0, 1.0]])
    torch.testing.assert_close(encoded, expected, atol=1e-6, rtol=0)
    assert positional_encoding(torch.rand(7, 3), 10).shape == (7, 60)
