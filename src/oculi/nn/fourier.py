r"""NeRF's positional encoding: Fourier features of each coordinate, so that an MLP can represent sharp detail.

    gamma(x) = [sin(2^0 pi x), cos(2^0 pi x), ..., sin(2^{L-1} pi x), cos(2^{L-1} pi x)]   for each coordinate in turn

It repeats with period 2, so coordinates are to lie in [-1, 1].

Mildenhall et al.: NeRF, 2020, arXiv:2003.08934. Tancik et al.: Fourier Features Let Networks Learn High Frequency
Functions in Low Dimensional Domains, 2020, arXiv:2006.10739.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def positional_encoding(
    x: Float[Tensor, "*batch coordinates"], frequencies: int
) -> Float[Tensor, "*batch coordinates_times_2_frequencies"]:
    """gamma(x): 2 `frequencies` numbers for each coordinate."""
    if frequencies < 1:
        raise ValueError(f"frequencies: expected at least 1, got {frequencies}")
    factors = math.pi * 2.0 ** torch.arange(frequencies, dtype=x.dtype, device=x.device)
    angles = x[..., None] * factors
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-3)
