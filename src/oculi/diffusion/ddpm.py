r"""DDPM: pictures from noise, by a network that predicts the noise at a random step.

    loss = ||eps - eps_theta(sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, t)||^2,   pixels scaled to [-1, 1]

Ho, Jain, Abbeel: Denoising Diffusion Probabilistic Models, 2020, arXiv:2006.11239.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oculi.input_contract import InputContract
from oculi.nn.diffusion_unet import DiffusionUNet
from oculi.ops.diffusion import ancestral_step, noise_loss, paper_betas, signal_levels
from oculi.predictions import Images
from oculi.system import System, evaluating
from oculi.types import Batch, Losses


class DDPM(System):
    """Ancestral sampling through all `steps`."""

    answer = Images
    alpha_bars: Tensor

    def __init__(self, image_size: int = 8, in_channels: int = 1, width: int = 32, steps: int = 200):
        super().__init__(InputContract(image_size, image_size, in_channels))
        self.steps = steps
        self.network = DiffusionUNet(in_channels, width)
        self.register_buffer("alpha_bars", signal_levels(paper_betas(steps)))

    def loss(self, batch: Batch) -> Losses:
        return {"noise": noise_loss(self.network, batch.pictures * 2 - 1, self.alpha_bars)}

    def sample(self, n: int, generator: torch.Generator | None = None) -> Images:
        size = (n, self.contract.channels, self.contract.height, self.contract.width)
        with evaluating(self):
            x: Tensor = torch.randn(size, generator=generator).to(self.device)
            for step in range(self.steps - 1, -1, -1):
                t = torch.full((n,), step, device=self.device)
                noise = torch.randn(size, generator=generator).to(self.device)
                x = ancestral_step(x, self.network(x, t), t, self.alpha_bars, noise)
            return Images((x.clamp(-1, 1) + 1) / 2)
