r"""Rotations written three ways: 3x3 matrix, rotation vector, unit quaternion (w, x, y, z).

    R = exp([v]_x) = I + a [v]_x + b [v]_x^2      a = sin|v| / |v|,  b = (1 - cos|v|) / |v|^2
    R = I + 2 w [u]_x + 2 [u]_x^2                 quaternion (w, u) of unit length; (w, u) and -(w, u) are one rotation

The vector's length is the angle in radians, its direction the axis. Both ways differentiable, at v = 0 too.

Source: Hartley and Zisserman, Multiple View Geometry (2004), appendix 4; Shepperd 1978 (matrix to quaternion).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def cross_matrix(v: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """[v]_x, with [v]_x w = v x w."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def rotation_from_vector(v: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation by |v| radians about v (Rodrigues)."""
    square = (v * v).sum(-1)
    small = square < 1e-8
    angle = torch.where(small, torch.ones_like(square), square).sqrt()
    a = torch.where(small, 1 - square / 6, angle.sin() / angle)
    b = torch.where(small, 0.5 - square / 24, 2 * (angle / 2).sin().square() / angle.square())
    X = cross_matrix(v)
    identity = torch.eye(3, dtype=v.dtype, device=v.device)
    return identity + a[..., None, None] * X + b[..., None, None] * (X @ X)


def vector_from_rotation(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """The rotation vector of R, its length in [0, pi]."""
    quaternion = quaternion_from_rotation(R)
    w, u = quaternion[..., 0], quaternion[..., 1:]
    square = (u * u).sum(-1)
    small = square < 1e-12
    sine = torch.where(small, torch.ones_like(square), square).sqrt()
    factor = torch.where(small, 2 - square / 3, 2 * torch.atan2(sine, w) / sine)
    return factor[..., None] * u


def rotation_from_quaternion(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation of a quaternion (w, x, y, z) of any length but 0, which raises ValueError."""
    length = torch.linalg.norm(q, dim=-1, keepdim=True)
    if not bool((length > 1e-12).all()):
        raise ValueError("q: expected quaternions of a length above 0, got 0 or NaN")
    w, u = (q / length)[..., :1, None], (q / length)[..., 1:]
    X = cross_matrix(u)
    return torch.eye(3, dtype=q.dtype, device=q.device) + 2 * w * X + 2 * (X @ X)


def quaternion_from_rotation(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternion (w, x, y, z) with w >= 0, from the largest of its four entries, which is at least 1/2."""
    m = R.flatten(-2).unbind(-1)
    xx, yy, zz = m[0], m[4], m[8]
    squares = torch.stack([1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz], -1)  # 4 q_i^2
    wx, wy, wz = m[7] - m[5], m[2] - m[6], m[3] - m[1]  # 4 w x, ...
    xy, xz, yz = m[1] + m[3], m[2] + m[6], m[5] + m[7]
    w2, x2, y2, z2 = squares.unbind(-1)
    products = torch.stack([w2, wx, wy, wz, wx, x2, xy, xz, wy, xy, y2, yz, wz, xz, yz, z2], -1)  # 4 q_i q_j
    largest = squares.argmax(-1)
    index = largest[..., None, None].expand(*largest.shape, 1, 4)
    row = products.unflatten(-1, (4, 4)).gather(-2, index)[..., 0, :]
    quaternion = row / torch.linalg.norm(row, dim=-1, keepdim=True)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def nearest_rotation(M: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation with the least Frobenius distance from M: U diag(1, 1, det(U V^T)) V^T."""
    U, _, V = torch.linalg.svd(M)
    sign = torch.det(U @ V)
    ones = torch.ones_like(sign)
    return (U * torch.stack([ones, ones, sign], -1)[..., None, :]) @ V


def rotation_error(R: Float[Tensor, "*batch 3 3"], truth: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Angle in degrees of the turn between two rotations, exact for small ones too."""
    apart = torch.linalg.matrix_norm(R.double() - truth.double())  # 2 sqrt(2) sin(angle / 2)
    return 2 * torch.asin((apart / math.sqrt(8)).clamp_max(1)) * (180 / math.pi)
