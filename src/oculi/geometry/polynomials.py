r"""Roots of cubics in closed form, and the cubic det(x A + B) that the minimal solvers of two and three views meet.

    x^3 + a x^2 + b x + c = 0        Q = (a^2 - 3 b) / 9        R = (2 a^3 - 9 a b + 27 c) / 54
    R^2 < Q^3     three real roots  -2 sqrt(Q) cos((acos(R / sqrt(Q^3)) + 2 pi k) / 3) - a / 3
    otherwise     one real root     S + Q / S - a / 3,   S = -sign(R) (|R| + sqrt(R^2 - Q^3))^(1/3)

Two Newton steps take away what rounding left. Source: Press et al., Numerical Recipes (2007), section 5.6.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def cubic_roots(coefficients: Float[Tensor, "*batch 4"]) -> tuple[Float[Tensor, "*batch 3"], Bool[Tensor, "*batch 3"]]:
    """Roots of c3 x^3 + c2 x^2 + c1 x + c0, given as (c3, c2, c1, c0), and which are real (the others mean nothing).

    None is real where c3 is zero. The first is always the one that a cubic has at least.

    >>> cubic_roots(torch.tensor([1.0, -6, 11, -6]))[0].sort().values
    tensor([1., 2., 3.])
    """
    c3, c2, c1, c0 = coefficients.unbind(-1)
    a, b, c = c2 / c3, c1 / c3, c0 / c3
    Q = (a.square() - 3 * b) / 9
    R = (2 * a**3 - 9 * a * b + 27 * c) / 54
    three = R.square() < Q**3
    root = Q.clamp_min(0).sqrt()
    angle = torch.acos((R / root**3).nan_to_num(0).clamp(-1, 1))
    turns = torch.arange(3, dtype=a.dtype, device=a.device) * (2 * math.pi)
    triple = -2 * root[..., None] * torch.cos((angle[..., None] + turns) / 3)
    S = (R.abs() + (R.square() - Q**3).clamp_min(0).sqrt()) ** (1 / 3)
    single = -torch.sign(R) * (S + torch.where(S > 0, Q / S, 0))
    x = torch.where(three[..., None], triple, single[..., None]) - a[..., None] / 3
    a, b, c = a[..., None], b[..., None], c[..., None]
    for _ in range(2):
        slope = (3 * x + 2 * a) * x + b
        step = (((x + a) * x + b) * x + c) / slope
        x = x - torch.where(step.abs() < 0.1 * (1 + x.abs()), step, 0)
    real = torch.isfinite(x) & (three[..., None] | (torch.arange(3, device=x.device) == 0))
    return x, real


def cofactors(A: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """det(A) A^{-T}: its rows are the cross products of A's rows."""
    return torch.linalg.cross(A[..., [1, 2, 0], :], A[..., [2, 0, 1], :])


def pencil_determinant(A: Float[Tensor, "*batch 3 3"], B: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Coefficients of det(x A + B), highest power first."""
    of_a, of_b = cofactors(A), cofactors(B)
    third, second = (of_a * A)[..., 0, :].sum(-1), (of_a * B).sum((-1, -2))
    return torch.stack([third, second, (of_b * A).sum((-1, -2)), (of_b * B)[..., 0, :].sum(-1)], -1)
