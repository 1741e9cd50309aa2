r"""How alike two pictures are: peak signal-to-noise ratio and structural similarity.

    PSNR = -10 log10 mean (x - y)^2                                     decibels, for pictures in [0, 1]
    SSIM = (2 m_x m_y + c1)(2 s_xy + c2) / ((m_x^2 + m_y^2 + c1)(s_x^2 + s_y^2 + c2))     in Gaussian windows, sigma 1.5

Wang, Bovik, Sheikh, Simoncelli: Image Quality Assessment: From Error Visibility to Structural Similarity, 2004.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def psnr(
    image: Float[Tensor, "*batch channels height width"], reference: Float[Tensor, "*batch channels height width"]
) -> Float[Tensor, "*batch"]:
    """Decibels per picture; infinite where they are equal.

    >>> psnr(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.1))
    tensor([20.])
    """
    _check(image, reference)
    return -10 * ((image - reference) ** 2).mean((-3, -2, -1)).log10()


def ssim(
    image: Float[Tensor, "batch channels height width"], reference: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, " batch"]:
    """Mean over the windows of 11 x 11 pixels that lie inside, and over channels; 1 where they are equal."""
    _check(image, reference)
    if min(image.shape[-2:]) < 11:
        raise ValueError(f"image: expected at least 11 x 11 pixels, got {tuple(image.shape[-2:])}")
    x, y = image.double().flatten(0, 1)[:, None], reference.double().flatten(0, 1)[:, None]
    bell = torch.exp(-0.5 * (torch.arange(-5, 6, dtype=x.dtype, device=x.device) / 1.5) ** 2)
    window = torch.outer(bell, bell)[None, None] / bell.sum() ** 2
    mean_x, mean_y, xx, yy, xy = (F.conv2d(v, window) for v in (x, y, x * x, y * y, x * y))
    var_x, var_y, cov = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return similarity.mean((1, 2, 3)).reshape(image.shape[:2]).mean(1).to(image.dtype)


def _check(image: Tensor, reference: Tensor) -> None:
    if image.shape != reference.shape:
        raise ValueError(f"reference: expected the image's shape {tuple(image.shape)}, got {tuple(reference.shape)}")
