r"""Horn-Schunck: optical flow as the smoothest field that explains the change of brightness, over the whole picture.

    E(u, v) = sum (Ix u + Iy v + It)^2 + a^2 sum over neighbours w (u - u')^2 + (v - v')^2      each pair once

Setting the gradient to zero and solving each pixel for itself, its neighbours held, gives the iteration

    u <- ubar - Ix (Ix ubar + Iy vbar + It) / (a^2 + Ix^2 + Iy^2)
    v <- vbar - Iy (Ix ubar + Iy vbar + It) / (a^2 + Ix^2 + Iy^2)

where ubar is the mean of the eight neighbours, 1/6 beside and 1/12 across. No iteration raises E. Where there is no
texture the data term is silent and the field is filled in from around, which the local method (Lucas-Kanade) cannot do.

Large motion: a pyramid, coarse to fine, warping as in `lucas_kanade`: each pixel is linearised about its own flow d0, so
that It = I2(x + d0) - I1(x) - grad . d0 and the solution is the whole displacement.

    image, next_image   batch x 1 x H x W in [0, 1]
    flow                batch x 2 x H x W, pixels (dx, dy): next_image(x + flow(x)) = image(x)

Differs from the paper: pyramid and warping; beyond the edge lies the edge's own flow; pixels that leave the picture have
no data term; a 3 x 3 median of the flow between warps, which removes what a wrong linearisation left
(Sun, Roth, Black, CVPR 2010).

Horn, Schunck: Determining optical flow, Artificial Intelligence 17, 1981.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from oculi.classical.lucas_kanade import (
    LucasKanade,
    checked_pair,
    coarse_to_fine,
    image_gradients,
    moving_photographs,
    pyramid,
    warp_by_flow,
)
from oculi.classical.stereo_depth import median_of_nine
from oculi.input_contract import InputContract
from oculi.predictions import Flow
from oculi.system import System
from oculi.types import Batch

BESIDE, ACROSS = 1 / 6, 1 / 12


def neighbour_mean(flow: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """ubar: the mean of the eight neighbours, 1/6 beside and 1/12 across, the edge repeated."""
    padded = F.pad(flow, (1, 1, 1, 1), mode="replicate")
    rows = padded[..., :-2, :] + padded[..., 2:, :]
    across = rows[..., :-2] + rows[..., 2:]
    beside = rows[..., 1:-1] + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
    return beside * BESIDE + across * ACROSS


def relax(
    gradient: Float[Tensor, "b 2 h w"],
    change: Float[Tensor, "b 1 h w"],
    flow: Float[Tensor, "b 2 h w"],
    smoothness: float,
    iterations: int,
) -> Float[Tensor, "b 2 h w"]:
    """`iterations` of the update, from `flow`; `change` is It, `smoothness` a."""
    share = gradient / (smoothness**2 + gradient.square().sum(1, keepdim=True))
    for _ in range(iterations):
        mean = neighbour_mean(flow)
        flow = mean - share * ((gradient * mean).sum(1, keepdim=True) + change)
    return flow


def energy(
    gradient: Float[Tensor, "b 2 h w"],
    change: Float[Tensor, "b 1 h w"],
    flow: Float[Tensor, "b 2 h w"],
    smoothness: float,
) -> Float[Tensor, " b"]:
    """E of the flow: what `relax` lowers. Every pair of neighbours counts once, pairs at the edge as the padding has them."""
    data = ((gradient * flow).sum(1, keepdim=True) + change).square().flatten(1).sum(1)
    padded = F.pad(flow, (1, 1, 1, 1), mode="replicate")
    height, width = flow.shape[-2:]
    smooth = torch.zeros_like(data)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            weight = ACROSS if dx and dy else BESIDE * bool(dx or dy)
            there = padded[..., 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
            smooth = smooth + weight / 2 * (flow - there).square().flatten(1).sum(1)
    return data + smoothness**2 * smooth


class HornSchunck(System):
    """Global optical flow; nothing is learned.

    smoothness: a, in units of brightness per pixel. levels: pictures in the pyramid at most, each half the size. warps
    per level; iterations per warp.
    """

    answer = Flow

    def __init__(
        self, image_size: int = 64, smoothness: float = 0.15, levels: int = 3, warps: int = 5, iterations: int = 60
    ):
        super().__init__(InputContract(image_size, image_size, 1))
        if smoothness <= 0:
            raise ValueError(f"smoothness: expected a positive number, got {smoothness}")
        if min(levels, warps, iterations) < 1:
            raise ValueError(f"levels, warps, iterations: expected at least 1, got {levels}, {warps} and {iterations}")
        self.smoothness, self.levels, self.warps, self.iterations = smoothness, levels, warps, iterations

    def predict(self, batch: Batch) -> list[Flow]:
        image, next_image = checked_pair(batch)
        everywhere = torch.ones_like(image[0, 0], dtype=torch.bool)
        return [Flow(flow, everywhere) for flow in self(image, next_image)]

    def forward(
        self, image: Float[Tensor, "b 1 h w"], next_image: Float[Tensor, "b 1 h w"]
    ) -> Float[Tensor, "b 2 h w"]:  # fmt: skip
        """The flow of every pixel; differentiable in both pictures."""
        first, second = pyramid(image, self.levels), pyramid(next_image, self.levels)
        return coarse_to_fine(first, second, self._level)

    def _level(self, one: Tensor, two: Tensor, flow: Tensor) -> Tensor:
        for _ in range(self.warps):
            gradient, change = linearised(one, two, flow)
            flow = median_of_nine(
                relax(gradient, change, flow, self.smoothness, self.iterations).flatten(0, 1)
            ).view_as(flow)
        return flow


def linearised(
    one: Float[Tensor, "b 1 h w"], two: Float[Tensor, "b 1 h w"], flow: Float[Tensor, "b 2 h w"]
) -> tuple[Float[Tensor, "b 2 h w"], Float[Tensor, "b 1 h w"]]:
    """(Ix, Iy) and It about `flow`, both zero where it leaves the picture: brightness constancy is Ix u + Iy v + It = 0."""
    warped, inside = warp_by_flow(two, flow)
    seen = inside[:, None].to(one)
    gradient = (image_gradients(one) + image_gradients(warped)) / 2 * seen
    return gradient, (warped - one) * seen - (gradient * flow).sum(1, keepdim=True)


# the experiment ------------------------------------------------------------------------------------------------------


def world_motion(scenes: int, size: int, seed: int, background: str = "checker") -> Batch:
    """World scenes a step apart, in grey, with exact flow; on checkered ground unless said otherwise."""
    from oculi.data.world.dataset import World
    from oculi.data.world.scenes import Knobs

    samples = World(scenes, "flow", size, seed, knobs=Knobs(background=background)).make(range(scenes))
    grey = InputContract(size, size, 1)
    pictures: dict[str, Any] = {
        n: torch.stack([grey.prepare(getattr(s, n)) for s in samples]) for n in ("image", "next_image")
    }
    return Batch(**pictures, flow=torch.stack([s.flow for s in samples if s.flow is not None]))


def _compared(system: HornSchunck, local: LucasKanade, batch: Batch) -> dict[str, float]:
    """Endpoint errors of both methods, of all pixels and of those that Lucas-Kanade calls weakly textured."""
    image, next_image = checked_pair(batch)
    assert batch.flow is not None
    flow = system(image, next_image)
    other, eigenvalue = local(image, next_image)
    error, other_error = (torch.linalg.norm(f - batch.flow, dim=1) for f in (flow, other))
    weak = eigenvalue <= local.texture
    return {
        "endpoint_error": float(error.mean()),
        "weak_endpoint_error": float(error[weak].mean()),
        "lucas_kanade_endpoint_error": float(other_error.mean()),
        "lucas_kanade_weak_endpoint_error": float(other_error[weak].mean()),
        "weak_gain": float((other_error - error)[weak].mean()),
        "weak_share": float(weak.double().mean()),
        "zero_flow_error": float(torch.linalg.norm(batch.flow, dim=1).mean()),
    }


def falling_share(batch: Batch, smoothness: float, iterations: int = 100) -> float:
    """The share of iterations that lower the energy, from no motion on, in double precision."""
    image, next_image = (picture.double() for picture in checked_pair(batch))
    flow = torch.zeros_like(image).expand(-1, 2, -1, -1)
    gradient, change = linearised(image, next_image, flow)
    energies = []
    for _ in range(iterations):
        energies.append(energy(gradient, change, flow, smoothness))
        flow = relax(gradient, change, flow, smoothness, 1)
    return float((torch.stack(energies).diff(dim=0) < 0).double().mean())


@torch.no_grad()
def experiment(scenes: int = 40, size: int = 64, seed: int = 0) -> dict[str, float]:
    """Endpoint errors on World motion beside Lucas-Kanade's and no motion's; the energy's fall.

    The scored scenes have checkered ground; `plain_` are the World's own, half of whose ground shows no motion at all.
    """
    system, local = HornSchunck(size).eval(), LucasKanade(size).eval()
    batch = world_motion(scenes, size, seed)
    plain = _compared(system, local, world_motion(scenes, size, seed, "varied"))
    photos, inside = moving_photographs(2 * size, 3.0, seed)
    assert photos.flow is not None
    smooth_error = torch.linalg.norm(system(*checked_pair(photos)) - photos.flow, dim=1)[inside]
    return {
        **_compared(system, local, batch),
        **{f"plain_{name}": value for name, value in plain.items()},
        "falling_share": falling_share(batch, system.smoothness),
        "photograph_endpoint_error": float(smooth_error.mean()),
    }
