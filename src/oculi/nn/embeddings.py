r"""Sinusoidal embeddings of positions and timesteps.

PE(p, 2i) = sin(p / 10000^(2i/d)), PE(p, 2i+1) = cos(p / 10000^(2i/d)); Vaswani et al., 2017. Timesteps use the same
frequencies with all sines before all cosines and frequency 10000^(-i/(d/2 - shift)); Ho et al., 2020.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def timestep_embedding(t: Tensor, width: int, shift: float = 1.0) -> Tensor:
    """(B,) timesteps to (B, width): sines, cosines, and a zero column when width is odd."""
    half = width // 2
    if half <= shift:
        raise ValueError(f"width: got {width}, expected half of it above shift {shift}")
    rate = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / (half - shift))
    angle = t.float()[:, None] * rate
    out = torch.cat([angle.sin(), angle.cos()], 1)
    return torch.nn.functional.pad(out, (0, width % 2))


def positional_encoding(length: int, width: int) -> Tensor:
    """(length, width) with sines and cosines interleaved."""
    if width < 2 or width % 2:
        raise ValueError(f"width: got {width}, expected a positive even number")
    rate = torch.exp(-math.log(10000) * torch.arange(0, width, 2) / width)
    angle = torch.arange(length)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)
