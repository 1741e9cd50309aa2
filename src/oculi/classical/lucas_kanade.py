r"""Lucas-Kanade: optical flow by local least squares on brightness constancy.

A window is taken to move as one, so its pixels vote for the displacement d = (u, v) that explains their change:

    [ sum Ix^2   sum Ix Iy ] [u]     [ sum Ix It ]
    [ sum Ix Iy  sum Iy^2  ] [v] = - [ sum Iy It ]        sums over a Gaussian window

The matrix must be well conditioned: where its smaller eigenvalue is low the window has no texture in two directions
(flat, or an edge: the aperture problem) and `valid` is false. It is a local method; the global energy is
Horn-Schunck's.

Large motion: a pyramid, coarse to fine, the flow so far warping the next picture back. Each pixel is linearised
about its own flow d0, so that It = I2(x + d0) - I1(x) - grad . d0 and the solution is the whole displacement, not a
step. grad is the mean of the first picture's gradient and the warped second's. Pixels that leave the picture have no
vote.

    image, next_image   batch x 1 x H x W in [0, 1]
    flow                2 x H x W, pixels (dx, dy): next_image(x + flow(x)) = image(x)
    valid               H x W

Differs from the paper: dense, pyramidal (Bouguet 2000), Gaussian windows, and a small multiple of the identity is
added to the matrix so that untextured pixels keep the coarser level's flow.

Lucas, Kanade: An iterative image registration technique with an application to stereo vision, IJCAI 1981.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from oculi.classical.sift import photographs
from oculi.geometry.camera import pixel_centers
from oculi.input_contract import InputContract
from oculi.ops.gaussian_blur import gaussian_blur
from oculi.predictions import Flow
from oculi.system import System
from oculi.types import Batch


def warp_by_flow(
    image: Float[Tensor, "b c h w"], flow: Float[Tensor, "b 2 h w"]
) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, "b h w"]]:
    """image(x + flow(x)), bicubic, and where x + flow(x) lies within the picture."""
    height, width = image.shape[-2:]
    places = pixel_centers(height, width, image.device).to(image).view(1, height, width, 2) + flow.permute(0, 2, 3, 1)
    size = places.new_tensor([width, height])
    inside = ((places >= 0.5) & (places <= size - 0.5)).all(-1)
    grid = places * (2 / size) - 1
    return F.grid_sample(image, grid, mode="bicubic", padding_mode="border", align_corners=False), inside


def image_gradients(image: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 2 h w"]:
    """(d/dx, d/dy) per pixel by five-point differences, the edge repeated."""
    kernel = image.new_tensor([1, -8, 0, 8, -1]) / 12
    dx = F.conv2d(F.pad(image, (2, 2, 0, 0), mode="replicate"), kernel.view(1, 1, 1, 5))
    dy = F.conv2d(F.pad(image, (0, 0, 2, 2), mode="replicate"), kernel.view(1, 1, 5, 1))
    return torch.cat([dx, dy], 1)


def checked_pair(batch: Batch) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b 1 h w"]]:
    """The batch's two pictures. Raises ValueError where one is missing, sizes differ, or a number is none."""
    if batch.image is None or batch.next_image is None:
        raise ValueError("batch: expected image and next_image, one is None")
    if batch.image.shape != batch.next_image.shape or batch.image.shape[1] != 1:
        shapes = tuple(batch.image.shape), tuple(batch.next_image.shape)
        raise ValueError(f"image, next_image: expected equal batch x 1 x H x W, got {shapes[0]} and {shapes[1]}")
    for name, picture in (("image", batch.image), ("next_image", batch.next_image)):
        if not bool(torch.isfinite(picture).all()):
            raise ValueError(f"{name}: expected numbers in [0, 1], got NaN or infinity")
    return batch.image, batch.next_image


def pyramid(image: Float[Tensor, "b 1 h w"], levels: int) -> list[Float[Tensor, "b 1 h2 w2"]]:
    """The picture and at most `levels` - 1 smaller ones, each half the one before, while both sides are 32 and more."""
    pictures = [image]
    while len(pictures) < levels and min(pictures[-1].shape[-2:]) >= 32:
        smaller = [math.ceil(side / 2) for side in pictures[-1].shape[-2:]]
        pictures.append(F.interpolate(gaussian_blur(pictures[-1], 1.0), size=smaller, mode="bilinear"))
    return pictures


def coarse_to_fine(
    first: list[Tensor], second: list[Tensor], level: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Float[Tensor, "b 2 h w"]:
    """Flow from nothing at the smallest pictures to the largest; `level` betters it at each."""
    flow = torch.zeros_like(first[-1]).expand(-1, 2, -1, -1)
    for one, two in zip(reversed(first), reversed(second), strict=True):
        height, width = one.shape[-2:]
        growth = flow.new_tensor([width / flow.shape[-1], height / flow.shape[-2]]).view(1, 2, 1, 1)
        flow = F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False) * growth
        flow = level(one, two, flow)
    return flow


class LucasKanade(System):
    """Dense pyramidal Lucas-Kanade; nothing is learned.

    window: sigma of the Gaussian window in pixels. levels: pictures in the pyramid at most, each half the size.
    iterations: warps per level. texture: smallest eigenvalue of the window's mean gradient matrix to be valid.
    """

    answer = Flow

    def __init__(
        self,
        image_size: int = 256,
        window: float = 3.0,
        levels: int = 4,
        iterations: int = 5,
        texture: float = 1e-5,
    ):
        super().__init__(InputContract(image_size, image_size, 1))
        if levels < 1 or iterations < 1:
            raise ValueError(f"levels, iterations: expected at least 1, got {levels} and {iterations}")
        if window <= 0 or texture <= 0:
            raise ValueError(f"window, texture: expected positive numbers, got {window} and {texture}")
        self.window, self.levels, self.iterations, self.texture = window, levels, iterations, texture

    def predict(self, batch: Batch) -> list[Flow]:
        flow, eigenvalue = self(*checked_pair(batch))
        return [Flow(f, e > self.texture) for f, e in zip(flow, eigenvalue)]

    def forward(
        self, image: Float[Tensor, "b 1 h w"], next_image: Float[Tensor, "b 1 h w"]
    ) -> tuple[Float[Tensor, "b 2 h w"], Float[Tensor, "b h w"]]:
        """Flow, and the smaller eigenvalue of each window's gradient matrix."""
        first, second = pyramid(image, self.levels), pyramid(next_image, self.levels)
        eigenvalue = image[:, 0]

        def level(one: Tensor, two: Tensor, flow: Tensor) -> Tensor:
            nonlocal eigenvalue
            for _ in range(self.iterations):
                flow, eigenvalue = self._solve(one, two, flow)
            return flow

        return coarse_to_fine(first, second, level), eigenvalue

    def _solve(self, one: Tensor, two: Tensor, flow: Float[Tensor, "b 2 h w"]) -> tuple[Tensor, Tensor]:
        """One linearisation: the flow that every window agrees on, and its smaller eigenvalue."""
        warped, inside = warp_by_flow(two, flow)
        seen = inside[:, None].to(one)
        gradient = (image_gradients(one) + image_gradients(warped)) / 2
        change = warped - one - (gradient * flow).sum(1, keepdim=True)
        ix, iy = gradient[:, :1], gradient[:, 1:]
        terms = torch.cat([ix * ix, ix * iy, iy * iy, ix * change, iy * change], 1) * seen
        a, b, c, p, q = gaussian_blur(terms, self.window).unbind(1)
        eigenvalue = (a + c) / 2 - torch.sqrt(((a - c) / 2).square() + b.square())
        # pulls towards the flow so far, by a hundredth of what counts as texture
        damping = 0.01 * self.texture
        a, c = a + damping, c + damping
        p, q = p - damping * flow[:, 0], q - damping * flow[:, 1]
        determinant = a * c - b.square()
        solved = torch.stack([b * q - c * p, b * p - a * q], 1) / determinant[:, None]
        step = (solved - flow).clamp(-2, 2)  # linearised brightness is to be trusted over a pixel or two only
        return flow + step, eigenvalue


# the experiment ------------------------------------------------------------------------------------------------------


def smooth_flow(size: int, amplitude: float, generator: torch.Generator) -> Float[Tensor, "1 2 size size"]:
    """A random flow that varies over a quarter of the picture, its largest component being `amplitude` pixels."""
    coarse = torch.randn(1, 2, 5, 5, generator=generator)
    flow = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)
    return flow * (amplitude / flow.abs().amax())


def moving_photographs(size: int, amplitude: float, seed: int = 0, photos: int = 5) -> tuple[Batch, Tensor]:
    """Photographs moved by a smooth random flow, which is exact (image = warped next), and the pixels that stay in view."""
    generator = torch.Generator().manual_seed(seed)
    after = gaussian_blur(torch.stack(photographs(size, photos)), 1.0)  # band-limited, so that interpolation is exact
    flow = torch.cat([smooth_flow(size, amplitude, generator) for _ in range(photos)])
    before, inside = warp_by_flow(after, flow)
    return Batch(image=before, next_image=after, flow=flow), inside


def shifted_photographs(size: int, photos: int = 5) -> Batch:
    """Photographs and the same moved by (0.5, 0.5) pixels: sampled at every second pixel of one twice as large."""
    fine = gaussian_blur(torch.stack(photographs(2 * size + 2, photos)), 2.0)
    before, after = fine[..., 1:-1:2, 1:-1:2], fine[..., 0:-2:2, 0:-2:2]
    flow = torch.full((photos, 2, size, size), 0.5)
    return Batch(image=before, next_image=after, flow=flow)


def _scored(system: LucasKanade, batch: Batch, inside: Tensor) -> tuple[float, float]:
    """Mean endpoint error on valid pixels that stay in view, and the share of those that are valid."""
    with torch.no_grad():
        answers = system.eval().predict(batch)
    assert batch.flow is not None
    error = torch.linalg.norm(torch.stack([a.flow for a in answers]) - batch.flow, dim=1)
    valid = torch.stack([a.valid for a in answers]) & inside
    return float(error[valid].mean()), float(valid.sum() / inside.sum())


def experiment(size: int = 256, amplitude: float = 6.0, photos: int = 5, seed: int = 0) -> dict[str, float]:
    """Endpoint errors in pixels under smooth motion and under a half-pixel shift; what standing still would give."""
    system = LucasKanade(size)
    batch, inside = moving_photographs(size, amplitude, seed, photos)
    moving, valid = _scored(system, batch, inside)
    shifted = shifted_photographs(size, photos)
    translation, translation_valid = _scored(system, shifted, torch.ones(photos, size, size, dtype=torch.bool))
    return {
        "endpoint_error": moving,
        "valid_share": valid,
        "zero_flow_error": float(torch.linalg.norm(batch.flow, dim=1)[inside].mean()),
        "half_pixel_error": translation,
        "half_pixel_valid_share": translation_valid,
    }
