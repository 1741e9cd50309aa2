r"""Lens distortion: radial and tangential, five coefficients in OpenCV's order (k1, k2, p1, p2, k3).

(x, y) are the normalised coordinates of a pinhole, K^{-1} times the pixel; r^2 = x^2 + y^2.

    x_d = x (1 + k1 r^2 + k2 r^4 + k3 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2)
    y_d = y (1 + k1 r^2 + k2 r^4 + k3 r^6) + p1 (r^2 + 2 y^2) + 2 p2 x y

A real lens sees (x_d, y_d) where a pinhole would see (x, y). The way back has no closed form: Newton's method from the
distorted point. Beyond the radius at which the lens folds (det J <= 0) no ideal point is seen there: the answer is NaN.
Pixels follow the house's convention, centres at +0.5; OpenCV's principal point is half a pixel less.

Differs from OpenCV: Newton steps to full precision instead of five fixed-point iterations; gradients to points and
coefficients by the implicit function theorem.

Brown: Decentering Distortion of Lenses, 1966. Conrady: Decentred Lens-Systems, 1919.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from oculi.geometry.camera import pixel_centers

COEFFICIENTS = ("k1", "k2", "p1", "p2", "k3")
NEWTON_STEPS = 20


def distort(
    points: Float[Tensor, "*#batch n 2"], coefficients: Float[Tensor, "*#batch 5"]
) -> Float[Tensor, "*out n 2"]:
    """Where the lens sees the ideal normalised points.

    >>> distort(torch.tensor([[1.0, 0.0]]), torch.tensor([0.1, 0.0, 0.0, 0.0, 0.0]))
    tensor([[1.1000, 0.0000]])
    """
    k1, k2, p1, p2, k3 = coefficients[..., None, :].unbind(-1)
    x, y = points.unbind(-1)
    square = x * x + y * y
    radial = 1 + square * (k1 + square * (k2 + square * k3))
    return torch.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x),
            y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y,
        ],
        -1,
    )


def distortion_jacobian(
    points: Float[Tensor, "*#batch n 2"], coefficients: Float[Tensor, "*#batch 5"]
) -> Float[Tensor, "*out n 2 2"]:
    """d(x_d, y_d) / d(x, y) at ideal points."""
    k1, k2, p1, p2, k3 = coefficients[..., None, :].unbind(-1)
    x, y = points.unbind(-1)
    square = x * x + y * y
    radial = 1 + square * (k1 + square * (k2 + square * k3))
    slope = 2 * (k1 + square * (2 * k2 + 3 * square * k3))  # d radial / d x = slope x
    across = slope * x * y + 2 * p1 * x + 2 * p2 * y
    along_x = radial + slope * x * x + 2 * p1 * y + 6 * p2 * x
    along_y = radial + slope * y * y + 6 * p1 * y + 2 * p2 * x
    return torch.stack([along_x, across, across, along_y], -1).unflatten(-1, (2, 2))


def undistort(
    points: Float[Tensor, "*#batch n 2"], coefficients: Float[Tensor, "*#batch 5"]
) -> Float[Tensor, "*out n 2"]:
    """The ideal normalised points that the lens sees at `points`; NaN where there is none (beyond the lens's fold)."""
    with torch.no_grad():
        ideal, lens = points.double(), coefficients.double()
        ideal = ideal.expand(torch.broadcast_shapes(ideal.shape, (*lens.shape[:-1], 1, 2)))
        for _ in range(NEWTON_STEPS):
            ideal = ideal - _step(distortion_jacobian(ideal, lens), distort(ideal, lens) - points.double())
        jacobian = distortion_jacobian(ideal, lens)
        left = (distort(ideal, lens) - points.double()).abs().amax(-1)
        seen = (left <= 1e-9 * (1 + points.double().abs().amax(-1))) & (torch.linalg.det(jacobian) > 0)
        seen &= _before_the_fold(ideal, lens)
        ideal = torch.where(seen[..., None], ideal, math.nan).to(points.dtype)
        jacobian = jacobian.to(points.dtype)
    if not (points.requires_grad or coefficients.requires_grad):
        return ideal
    return ideal - _step(jacobian, distort(ideal, coefficients) - points)  # the same point, with its gradient


def _before_the_fold(ideal: Float[Tensor, "*batch n 2"], lens: Float[Tensor, "*batch 5"]) -> Tensor:
    """Whether the way from the axis out to each point meets no fold: det J > 0 at 8 places on it."""
    shares = torch.linspace(0.125, 1, 8, dtype=ideal.dtype, device=ideal.device)
    way = shares[:, None] * ideal.flatten(-2)[..., None, :]  # *batch 8 2n
    places = way.unflatten(-1, (-1, 2)).flatten(-3, -2)  # *batch 8n 2
    determinant = torch.linalg.det(distortion_jacobian(places, lens))
    return (determinant.unflatten(-1, (8, -1)) > 0).all(-2)


def _step(jacobian: Float[Tensor, "*batch 2 2"], residual: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    a, b, c, d = jacobian.flatten(-2).unbind(-1)
    x, y = residual.unbind(-1)
    return torch.stack([d * x - b * y, a * y - c * x], -1) / (a * d - b * c)[..., None]


def normalise_pixels(
    pixels: Float[Tensor, "*#batch n 2"], K: Float[Tensor, "*#batch 3 3"]
) -> Float[Tensor, "*out n 2"]:
    """K^{-1} [u v 1]^T without its last row, which is 1."""
    y = (pixels[..., 1] - K[..., 1, 2, None]) / K[..., 1, 1, None]
    x = (pixels[..., 0] - K[..., 0, 2, None] - K[..., 0, 1, None] * y) / K[..., 0, 0, None]
    return torch.stack([x, y], -1)


def pixels_of(points: Float[Tensor, "*#batch n 2"], K: Float[Tensor, "*#batch 3 3"]) -> Float[Tensor, "*out n 2"]:
    """Pixels of normalised points."""
    x, y = points.unbind(-1)
    u = K[..., 0, 0, None] * x + K[..., 0, 1, None] * y + K[..., 0, 2, None]
    return torch.stack([u, K[..., 1, 1, None] * y + K[..., 1, 2, None]], -1)


def distort_pixels(
    pixels: Float[Tensor, "*#batch n 2"], K: Float[Tensor, "*#batch 3 3"], coefficients: Float[Tensor, "*#batch 5"]
) -> Float[Tensor, "*out n 2"]:
    """Where the lens puts ideal pinhole pixels."""
    return pixels_of(distort(normalise_pixels(pixels, K), coefficients), K)


def undistort_pixels(
    pixels: Float[Tensor, "*#batch n 2"], K: Float[Tensor, "*#batch 3 3"], coefficients: Float[Tensor, "*#batch 5"]
) -> Float[Tensor, "*out n 2"]:
    """The ideal pinhole pixels of observed ones; the same pixels without distortion, NaN beyond the lens's fold."""
    return pixels_of(undistort(normalise_pixels(pixels, K), coefficients), K)


def undistort_image(
    image: Float[Tensor, "b c h w"],
    K: Float[Tensor, "*#b 3 3"],
    coefficients: Float[Tensor, "*#b 5"],
    new_K: Float[Tensor, "*#b 3 3"] | None = None,
) -> Float[Tensor, "b c h w"]:
    """The picture that a pinhole of `new_K` (default K) would have taken; black where the lens saw nothing. Bilinear."""
    if not bool(torch.isfinite(K).all() and torch.isfinite(coefficients).all()):
        raise ValueError("K, coefficients: expected finite numbers, got NaN or infinity")
    height, width = image.shape[-2:]
    wanted = pixel_centers(height, width, image.device).to(image)
    ideal = normalise_pixels(wanted, (K if new_K is None else new_K).to(image))
    seen = pixels_of(distort(ideal, coefficients.to(image)), K.to(image))
    grid = seen * (2 / seen.new_tensor([width, height])) - 1
    grid = grid.reshape(-1, height, width, 2).expand(len(image), -1, -1, -1)
    return F.grid_sample(image, grid, align_corners=False)
