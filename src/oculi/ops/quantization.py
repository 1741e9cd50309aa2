r"""Uniform quantisation: floats to n-bit integers by a scale and an integer zero point, and back.

    affine       s = (max - min) / (qmax - qmin)        the range is first extended to contain 0
                 z = clamp(round(qmin - min / s), qmin, qmax)
                 q = clamp(round(x / s) + z, qmin, qmax)
                 x' = s (q - z)                           real 0 is exact; |x - x'| <= s/2 away from the ends
    symmetric    s = max |x| / (2^(bits-1) - 1), z = 0

Exact ties round to even, as torch rounds; implementations differ there.

Jacob et al.: Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 2017,
arXiv:1712.05877. Krishnamoorthi: Quantizing Deep Convolutional Networks, 2018, arXiv:1806.08342.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SMALLEST = torch.finfo(torch.float32).eps  # of a scale, so that a constant 0 can be divided by it


def integer_range(bits: int = 8, signed: bool = True) -> tuple[int, int]:
    """(qmin, qmax): [-128, 127] or [0, 255] at 8 bits. Raises ValueError outside 2 to 16 bits.

    >>> integer_range(8), integer_range(8, signed=False)
    ((-128, 127), (0, 255))
    """
    if not 2 <= bits <= 16:
        raise ValueError(f"bits: expected 2 to 16, got {bits}")
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def affine_parameters(
    low: Float[Tensor, "*channels"], high: Float[Tensor, "*channels"], qmin: int = 0, qmax: int = 255
) -> tuple[Float[Tensor, "*channels"], Int[Tensor, "*channels"]]:
    """Scale and zero point of the range [low, high]. Raises ValueError when the range is empty or not finite.

    >>> affine_parameters(torch.tensor(-1.0), torch.tensor(1.55), 0, 255)
    (tensor(0.0100), tensor(100, dtype=torch.int32))
    """
    if not bool((torch.isfinite(low) & torch.isfinite(high) & (low <= high)).all()):
        raise ValueError(f"low, high: expected finite numbers with low <= high, got {low.tolist()} and {high.tolist()}")
    low, high = low.clamp_max(0), high.clamp_min(0)
    scale = ((high - low) / (qmax - qmin)).clamp_min(_SMALLEST)
    zero = (qmin - (low / scale).round()).clamp(qmin, qmax)
    return scale, zero.to(torch.int32)


def symmetric_scale(most: Float[Tensor, "*channels"], bits: int = 8) -> Float[Tensor, "*channels"]:
    """The scale of [-most, most] with zero point 0, so that -most and most become -127 and 127 at 8 bits."""
    if not bool((torch.isfinite(most) & (most >= 0)).all()):
        raise ValueError(f"most: expected finite magnitudes, got {most.tolist()}")
    return (most / integer_range(bits)[1]).clamp_min(_SMALLEST)


def quantize(
    x: Float[Tensor, "*shape"], scale: Float[Tensor, "..."], zero: Int[Tensor, "..."], qmin: int, qmax: int
) -> Int[Tensor, "*shape"]:
    """clamp(round(x / s) + z) as int32; scale and zero point broadcast against x."""
    return ((x / scale).round() + zero).clamp(qmin, qmax).to(torch.int32)


def dequantize(
    q: Int[Tensor, "*shape"], scale: Float[Tensor, "..."], zero: Int[Tensor, "..."]
) -> Float[Tensor, "*shape"]:
    """s (q - z)."""
    return (q.to(torch.int32) - zero) * scale


def quantize_symmetric(x: Float[Tensor, "*shape"], scale: Float[Tensor, "..."], bits: int = 8) -> Int[Tensor, "*shape"]:
    """clamp(round(x / s)) over the whole signed range, as int8 up to 8 bits.

    >>> quantize_symmetric(torch.tensor([-2.0, 0.5, 2.0]), symmetric_scale(torch.tensor(2.0)))
    tensor([-127,   32,  127], dtype=torch.int8)
    """
    qmin, qmax = integer_range(bits)
    return (x / scale).round().clamp(qmin, qmax).to(torch.int8 if bits <= 8 else torch.int16)


def integer_matmul(a: Int[Tensor, "*batch n k"], b: Int[Tensor, "k m"]) -> Int[Tensor, "*batch n m"]:
    """Products of low-precision integers, accumulated in int32: exact, where int8 arithmetic would overflow.

    >>> integer_matmul(torch.tensor([[100, 100]], dtype=torch.int8), torch.tensor([[100], [100]], dtype=torch.int8))
    tensor([[20000]], dtype=torch.int32)
    """
    return a.to(torch.int32) @ b.to(torch.int32)
