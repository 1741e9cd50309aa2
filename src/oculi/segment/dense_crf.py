r"""Fully connected CRF: every pixel asks every other one, near or of its colour, and class borders move to the picture's.

    E(x)    = sum_i u_i(x_i) + sum_{i<j} [x_i != x_j] k_ij,      u_i(l) = -ln p_i(l) of the classifier
    k_ij    = w_a exp(-|s_i - s_j|^2 / 2 t_a^2 - |c_i - c_j|^2 / 2 t_c^2)  +  w_s exp(-|s_i - s_j|^2 / 2 t_s^2)
              appearance: near and of the same colour                         smoothness: next to each other
    Q_i(l) <- softmax_l(-u_i(l) + sum_{j != i} k_ij Q_j(l)),     from Q = p, all pixels at once, a few times

s: places in pixels, c: colours in [0, 1], of any number of channels. `normalized` divides each kernel by the square roots of
its two rows' sums, as the authors' code does, so that weights mean the same for pictures of any size.

The exact sums over all pairs, in blocks of rows, take time in the square of the number of pixels. The fast ones give the
same within `tolerance`: a Gaussian over places is one matrix over rows and one over columns, and the colour kernel is
brought down to few columns by a Cholesky decomposition with pivots, K = L L^T + R, stopped when no entry of the
remainder R is above the tolerance (its largest entry is on its diagonal). Then

    sum_j k_ij Q_j = sum_m L_im  (G_y (L_m Q) G_x)_i

Krahenbuhl, Koltun: Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials, 2011, arXiv:1210.5644.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

Message = Callable[[Float[Tensor, "n classes"]], Float[Tensor, "n classes"]]


@dataclass(frozen=True)
class Kernels:
    """Weights of the two kernels and their widths: places in pixels, colours in [0, 1]."""

    appearance: float = 4.0
    appearance_places: float = 8.0
    appearance_colours: float = 0.08
    smoothness: float = 1.0
    smoothness_places: float = 1.0
    normalized: bool = True

    def __post_init__(self) -> None:
        for name in ("appearance", "smoothness"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected a weight of 0 or more, got {getattr(self, name)}")
        for name in ("appearance_places", "appearance_colours", "smoothness_places"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected a positive width, got {getattr(self, name)}")


def dense_crf(
    image: Float[Tensor, "b c h w"],
    probabilities: Float[Tensor, "b classes h w"],
    kernels: Kernels = Kernels(),
    steps: int = 5,
    exact: bool = False,
    tolerance: float = 1e-3,
) -> Float[Tensor, "b classes h w"]:
    """Refined probabilities after so many steps of the mean field.

    >>> image = torch.zeros(1, 1, 1, 6)
    >>> image[..., 3:] = 1
    >>> unsure = torch.tensor([0.9, 0.8, 0.45, 0.45, 0.2, 0.1]).reshape(1, 1, 1, 6)
    >>> dense_crf(image, torch.cat([unsure, 1 - unsure], 1)).argmax(1).tolist()
    [[[0, 0, 0, 1, 1, 1]]]
    """
    if image.shape[0] != probabilities.shape[0] or image.shape[2:] != probabilities.shape[2:]:
        wanted = tuple(image.shape)
        raise ValueError(f"probabilities: expected a map for pictures of {wanted}, got {tuple(probabilities.shape)}")
    if steps < 0 or not tolerance > 0:
        raise ValueError(f"steps, tolerance: expected 0 or more and a positive number, got {steps} and {tolerance}")
    refined = []
    for picture, given in zip(image, probabilities, strict=True):
        unary = given.flatten(1).T.clamp_min(1e-6).log()
        q = given.flatten(1).T
        sums = exact_sums(picture, kernels) if exact else fast_sums(picture, kernels, tolerance)
        for _ in range(steps):
            q = (unary + sums(q)).softmax(1)
        refined.append(q.T.reshape(given.shape))
    return torch.stack(refined)


def exact_sums(picture: Float[Tensor, "c h w"], kernels: Kernels, rows: int = 512) -> Message:
    """sum_{j != i} k_ij Q_j over all pairs of pixels, `rows` of them at a time."""
    colours, places = picture.flatten(1).T, _places(*picture.shape[1:]).to(picture)
    both = [
        (kernels.appearance, torch.cat([places / kernels.appearance_places, colours / kernels.appearance_colours], 1)),
        (kernels.smoothness, places / kernels.smoothness_places),
    ]

    def sums(features: Tensor, values: Tensor) -> Tensor:
        parts = (
            torch.cdist(part, features, compute_mode="donot_use_mm_for_euclid_dist") for part in features.split(rows)
        )
        return torch.cat([torch.exp(-0.5 * distance.square()) @ values for distance in parts])

    return _message(
        [(weight, partial(sums, features)) for weight, features in both], len(places), kernels.normalized, picture
    )


def fast_sums(picture: Float[Tensor, "c h w"], kernels: Kernels, tolerance: float = 1e-3) -> Message:
    """The same, each entry of the colour kernel within `tolerance`; the exact ones where they are quicker, as in noise,
    whose colours need a column for more than every sixteenth pixel."""
    size = picture.shape[1:]
    factor = low_rank(picture.flatten(1).T / kernels.appearance_colours, tolerance, most=-(-size.numel() // 16))
    if factor is None:
        return exact_sums(picture, kernels)
    ones = torch.ones_like(factor[:, :1])

    def sums(values: Tensor, width: float, columns: Tensor) -> Tensor:
        down, across = (_line(n, width).to(picture) for n in size)
        total = torch.zeros_like(values)
        for part in columns.split(32, 1):  # not all at once, for the memory's sake
            maps = (part[:, :, None] * values[:, None, :]).reshape(*size, -1)
            blurred = torch.einsum("xX,yXk->yxk", across, torch.einsum("yY,YXk->yXk", down, maps))
            total = total + (part[:, :, None] * blurred.reshape(len(values), part.shape[1], -1)).sum(1)
        return total

    both = [
        (kernels.appearance, lambda v: sums(v, kernels.appearance_places, factor)),
        (kernels.smoothness, lambda v: sums(v, kernels.smoothness_places, ones)),
    ]
    return _message(both, len(factor), kernels.normalized, picture)


def low_rank(features: Float[Tensor, "n c"], tolerance: float, most: int) -> Float[Tensor, "n rank"] | None:
    """L with |exp(-|f_i - f_j|^2 / 2) - (L L^T)_ij| at most `tolerance`, of as few columns as greedy pivots need; None
    where `most` do not suffice."""
    left, columns = torch.ones(len(features)).to(features), torch.zeros(len(features), 0).to(features)
    while float(left.max()) > tolerance:
        if columns.shape[1] == most:
            return None
        pivot = left.argmax()
        entries = torch.exp(-0.5 * (features - features[pivot]).square().sum(1))
        column = (entries - columns @ columns[pivot]) / left[pivot].sqrt()
        columns = torch.cat([columns, column[:, None]], 1)
        left = (left - column.square()).clamp_min(0)
        left[pivot] = 0.0
    return columns


def _message(
    kernels: list[tuple[float, Callable[[Tensor], Tensor]]], n: int, normalized: bool, like: Tensor
) -> Message:
    """The weighted sum of the kernels' sums, each normalized or not, without what a pixel says to itself."""
    used = [(weight, sums) for weight, sums in kernels if weight]
    ones = torch.ones(n, 1).to(like)
    scales = [sums(ones).clamp_min(1e-6).rsqrt() if normalized else ones for _, sums in used]

    def message(q: Tensor) -> Tensor:
        total = torch.zeros_like(q)
        for (weight, sums), scale in zip(used, scales, strict=True):
            total = total + weight * (scale * sums(scale * q) - scale.square() * q)
        return total

    return message


def _places(height: int, width: int) -> Float[Tensor, "n 2"]:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2).float()


def _line(n: int, width: float) -> Float[Tensor, "n n"]:
    """The Gaussian between any two places of a line."""
    place = torch.arange(n).float() / width
    return torch.exp(-0.5 * (place[:, None] - place).square())
