r"""Values of maps between their pixels: nearest, bilinear and bicubic interpolation, the definitions.

A point (x, y) is in pixels, centres at +0.5. With u = x - 0.5 each axis has taps i around u and weights w(u - i):

    nearest    the one pixel that holds the point: i = floor(x), weight 1
    bilinear   2 taps, w(t) = 1 - |t|
    bicubic    4 taps, w(t) = (a + 2)|t|^3 - (a + 3)|t|^2 + 1              |t| <= 1
                              a |t|^3 - 5a |t|^2 + 8a |t| - 4a             1 < |t| < 2

The value is the sum over y taps and x taps of w(dy) w(dx) map[j, i]. Weights sum to 1 for every a; a = -0.5 (Keys)
reproduces quadratic polynomials, a = -0.75 is torch's and OpenCV's. Gradients flow to values and to coordinates (none to
coordinates of `nearest`, which is constant between its jumps). Taps beyond the border repeat it or count as zero.

`sample` and `resize` are what the words mean, read from the formulas; `fast_sample` and `torch.nn.functional.interpolate`
are their fused twins, equal to rounding (`fast_sample` differs on ties of `nearest`, half-way between two pixels).

Keys: Cubic Convolution Interpolation for Digital Image Processing, 1981.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

Mode = Literal["nearest", "bilinear", "bicubic"]
Border = Literal["border", "zeros"]
TORCH_CUBIC, KEYS_CUBIC = -0.75, -0.5


def cubic_weights(distance: Float[Tensor, "*n"], a: float = TORCH_CUBIC) -> Float[Tensor, "*n"]:
    """The cubic convolution kernel.

    >>> cubic_weights(torch.tensor([1.5, 0.5, -0.5, -1.5]), a=-0.5)
    tensor([-0.0625,  0.5625,  0.5625, -0.0625])
    """
    t = distance.abs()
    inner = ((a + 2) * t - (a + 3)) * t * t + 1
    outer = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return torch.where(t <= 1, inner, torch.where(t < 2, outer, torch.zeros_like(t)))


def _taps(coordinate: Float[Tensor, "*n"], mode: str, a: float) -> tuple[Int[Tensor, "*n t"], Float[Tensor, "*n t"]]:
    """Pixel numbers along one axis and their weights."""
    if mode == "nearest":
        return coordinate.detach().floor().long()[..., None], torch.ones_like(coordinate)[..., None]
    u = coordinate - 0.5
    first = u.detach().floor()
    offsets = torch.arange(0, 2, device=u.device) if mode == "bilinear" else torch.arange(-1, 3, device=u.device)
    pixels = first[..., None] + offsets
    distance = u[..., None] - pixels
    return pixels.long(), 1 - distance.abs() if mode == "bilinear" else cubic_weights(distance, a)


def sample(
    maps: Float[Tensor, "b c h w"],
    points: Float[Tensor, "b n 2"],
    mode: Mode = "bilinear",
    border: Border = "border",
    a: float = TORCH_CUBIC,
) -> Float[Tensor, "b c n"]:
    """Values of each map at points (x, y) in pixels, by the formulas above.

    >>> sample(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]), torch.tensor([[[1.0, 1.0]]]))
    tensor([[[1.5000]]])
    """
    _check(maps, points, mode, border)
    height, width = maps.shape[-2:]
    i, wx = _taps(points[..., 0], mode, a)
    j, wy = _taps(points[..., 1], mode, a)
    if border == "zeros":
        wx = wx * ((i >= 0) & (i < width))
        wy = wy * ((j >= 0) & (j < height))
    i, j = i.clamp(0, width - 1), j.clamp(0, height - 1)
    places = j[..., :, None] * width + i[..., None, :]  # b n ty tx
    weights = (wy[..., :, None] * wx[..., None, :]).to(maps)
    chosen = maps.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, maps.shape[1], -1))
    return (chosen.unflatten(2, places.shape[1:]) * weights[:, None]).sum((-1, -2))


def fast_sample(
    maps: Float[Tensor, "b c h w"], points: Float[Tensor, "b n 2"], mode: Mode = "bilinear", border: Border = "border"
) -> Float[Tensor, "b c n"]:
    """`sample` with a = -0.75 through torch's fused kernel."""
    _check(maps, points, mode, border)
    size = points.new_tensor([maps.shape[-1], maps.shape[-2]])
    grid = (points * (2 / size) - 1)[:, :, None].to(maps)
    return F.grid_sample(maps, grid, mode=mode, padding_mode=border, align_corners=False)[..., 0]


def resize(
    maps: Float[Tensor, "b c h w"],
    height: int,
    width: int,
    mode: Mode = "bilinear",
    align_corners: bool = False,
    a: float = TORCH_CUBIC,
) -> Float[Tensor, "b c height width"]:
    """The maps on a grid of another size, without smoothing first; the twin of torch's `interpolate` (`nearest-exact`).

    align_corners: the outermost pixel centres stay (else the outermost edges); a map of one pixel is then its first.
    """
    if height < 1 or width < 1:
        raise ValueError(f"height, width: expected at least 1, got {height} and {width}")
    if align_corners and mode == "nearest":
        raise ValueError("align_corners: expected false for nearest")
    axes = []
    for wanted, given in ((height, maps.shape[-2]), (width, maps.shape[-1])):
        steps = torch.arange(wanted, dtype=torch.float64, device=maps.device)
        if align_corners:
            axes.append(0.5 + steps * ((given - 1) / max(1, wanted - 1)))
        else:
            axes.append((steps + 0.5) * (given / wanted))
    y, x = torch.meshgrid(*axes, indexing="ij")
    points = torch.stack([x, y], -1).reshape(1, -1, 2).expand(len(maps), -1, 2)
    return sample(maps, points, mode, "border", a).unflatten(2, (height, width))


def _check(maps: Tensor, points: Tensor, mode: str, border: str) -> None:
    if mode not in ("nearest", "bilinear", "bicubic"):
        raise ValueError(f"mode: expected nearest, bilinear or bicubic, got {mode!r}")
    if border not in ("border", "zeros"):
        raise ValueError(f"border: expected border or zeros, got {border!r}")
    if not bool(torch.isfinite(points).all()):
        raise ValueError("points: expected finite coordinates, got NaN or infinity")
