r"""DDIM: the network of DDPM, sampled without noise in few steps.

    x0 = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t),   x_s = sqrt(abar_s) x0 + sqrt(1 - abar_s) eps,   s < t

Song, Meng, Ermon: Denoising Diffusion Implicit Models, 2020, arXiv:2010.02502.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from oculi.input_contract import InputContract
from oculi.nn.diffusion_unet import DiffusionUNet
from oculi.ops.diffusion import ddim_step, noise_loss, paper_betas, signal_levels
from oculi.predictions import Images
from oculi.system import System, evaluating
from oculi.types import Batch, Losses


class DDIM(System):
    """Deterministic sampling in `sample_steps` of the `steps` steps; weights as DDPM's."""

    answer = Images
    alpha_bars: Tensor

    def __init__(
        self, image_size: int = 8, in_channels: int = 1, width: int = 32, steps: int = 200, sample_steps: int = 20
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if not 1 <= sample_steps <= steps:
            raise ValueError(f"sample_steps: got {sample_steps}, expected 1 to {steps}")
        self.sample_steps = sample_steps
        self.steps = steps
        self.network = DiffusionUNet(in_channels, width)
        self.register_buffer("alpha_bars", signal_levels(paper_betas(steps)))

    def loss(self, batch: Batch) -> Losses:
        return {"noise": noise_loss(self.network, batch.pictures * 2 - 1, self.alpha_bars)}

    def sample(self, n: int, generator: torch.Generator | None = None) -> Images:
        size = (n, self.contract.channels, self.contract.height, self.contract.width)
        with evaluating(self):
            x: Tensor = torch.randn(size, generator=generator).to(self.device)
            times = torch.linspace(self.steps - 1, -1, self.sample_steps + 1).round().long().tolist()
            for now, then in pairwise(times):
                t, before = (torch.full((n,), step, device=self.device) for step in (now, then))
                x = ddim_step(x, self.network(x, t), t, before, self.alpha_bars, clip=1.0)
            return Images((x.clamp(-1, 1) + 1) / 2)
