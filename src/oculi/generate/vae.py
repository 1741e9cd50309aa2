r"""VAE: an autoencoder whose code is a distribution, so that the prior can be decoded.

    loss = -E_q[log p(x|z)] + beta KL(q(z|x) || N(0, I)),   z = mu + sigma eps,   p(x|z) Bernoulli per pixel
    KL = 1/2 sum(mu^2 + sigma^2 - 1 - log sigma^2)          nats per picture, pixels in [0, 1]

beta = 1 is the paper; beta = 0 leaves a noisy autoencoder. Pixels are grey, so the Bernoulli is a cross-entropy only.
Kingma, Welling: Auto-Encoding Variational Bayes, 2013, arXiv:1312.6114.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.predictions import Images
from oculi.system import System, evaluating
from oculi.types import Batch, Losses


def gaussian_kl(mean: Float[Tensor, "b z"], log_variance: Float[Tensor, "b z"]) -> Float[Tensor, " b"]:
    """KL(N(mean, exp(log_variance)) || N(0, I)) in nats."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)


class VAE(System):
    """Fully connected encoder and decoder; `latent` is the code's length."""

    answer = Images

    def __init__(
        self, image_size: int = 8, in_channels: int = 1, latent: int = 12, width: int = 256, beta: float = 1.0
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        self.latent, self.beta = latent, beta
        self.shape = (in_channels, image_size, image_size)
        pixels = in_channels * image_size**2
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, 2 * latent),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(latent, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, pixels)
        )

    def encode(self, image: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x)."""
        mean, log_variance = self.encoder(self.normalize(image)).chunk(2, 1)
        return mean, log_variance.clamp(-20, 10)

    def decode(self, z: Float[Tensor, "b z"]) -> Float[Tensor, "b c h w"]:
        """Logits of the pixels."""
        return self.decoder(z).unflatten(1, self.shape)

    def loss(self, batch: Batch) -> Losses:
        mean, log_variance = self.encode(batch.pictures)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        error = F.binary_cross_entropy_with_logits(self.decode(z), batch.pictures, reduction="sum") / len(z)
        return {"reconstruction": error, "kl": self.beta * gaussian_kl(mean, log_variance).mean()}

    def predict(self, batch: Batch) -> list[Images]:
        return [Images(picture[None]) for picture in self.decode(self.encode(batch.pictures)[0]).sigmoid()]

    def sample(self, n: int, generator: torch.Generator | None = None) -> Images:
        with evaluating(self):
            return Images(self.decode(torch.randn(n, self.latent, generator=generator).to(self.device)).sigmoid())
