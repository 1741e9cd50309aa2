r"""WGAN: a critic whose score difference estimates the Wasserstein distance between data and samples.

    critic     minimise mean f(g(z)) - mean f(x), five steps, every weight then clipped to [-c, c]
    generator  minimise -mean f(g(z))

Fully connected, pixels in [0, 1]. Arjovsky, Chintala, Bottou: Wasserstein GAN, 2017, arXiv:1701.07875.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oculi.input_contract import InputContract
from oculi.predictions import Images
from oculi.system import Phase, System, evaluating
from oculi.types import Batch, Losses


class WGAN(System):
    """Critic and generator of `width`; `clip` is c."""

    answer = Images

    def __init__(
        self, image_size: int = 8, in_channels: int = 1, latent: int = 16, width: int = 128, clip: float = 0.01,
        critic_steps: int = 5,
    ):  # fmt: skip
        super().__init__(InputContract(image_size, image_size, in_channels))
        self.latent, self.clip, self.critic_steps = latent, clip, critic_steps
        pixels = in_channels * image_size**2
        self.critic = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2),
            nn.Linear(width, 1),
        )  # fmt: skip
        self.generator = nn.Sequential(
            nn.Linear(latent, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, pixels),
            nn.Sigmoid(), nn.Unflatten(1, (in_channels, image_size, image_size)),
        )  # fmt: skip

    def _fake(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.generator(torch.randn(n, self.latent, generator=generator).to(self.device))

    def critic_loss(self, batch: Batch) -> Losses:
        """Minus the estimated distance; the generator gets no gradient."""
        fake = self._fake(len(batch.pictures)).detach()
        return {"critic": self.critic(fake).mean() - self.critic(batch.image).mean()}

    def generator_loss(self, batch: Batch) -> Losses:
        """Minus the critic's score of samples."""
        return {"generator": -self.critic(self._fake(len(batch.pictures))).mean()}

    def loss(self, batch: Batch) -> Losses:
        return self.critic_loss(batch) | self.generator_loss(batch)

    def phases(self) -> list[Phase]:
        return [
            Phase("critic", list(self.critic.parameters()), self.critic_loss, self.critic_steps),
            Phase("generator", list(self.generator.parameters()), self.generator_loss),
        ]

    @torch.no_grad()
    def on_step_end(self, phase: str, step: int) -> None:
        if phase == "critic":
            for weight in self.critic.parameters():
                weight.clamp_(-self.clip, self.clip)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Images:
        with evaluating(self):
            return Images(self._fake(n, generator))
