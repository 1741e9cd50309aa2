r"""SimCLR: two random views of a picture shall meet, and part from everybody else's.

    x ~ batch of N pictures, t, t' ~ augmentations
    h = f(t(x))  (ResNet, pooled)        z = W2 ReLU(W1 h)  (projection head, training only)
    l_ij = -log exp(cos(z_i, z_j) / tau) / Σ_{k != i} exp(cos(z_i, z_k) / tau)

    image            batch x C x H x W in [0, 1]
    h (the answer)   batch x features          z   2 batch x projection

No label is used. A view's 2(N - 1) negatives are the other views of the batch, so large batches help. The answer is h,
before the head, which serves other tasks better than z; a linear probe judges it. Differs from the paper: the
augmentations are those of `oculi.data.augment` (affine maps, contrast, brightness, noise, erasing), the
optimiser Adam, not LARS.

Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual Representations, 2020,
arXiv:2002.05709.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from oculi.backbones.resnet import ResNet
from oculi.data.augment import Augment
from oculi.input_contract import InputContract
from oculi.nn.contrastive import nt_xent_loss
from oculi.predictions import Embeddings
from oculi.system import System
from oculi.types import Batch, Losses, images_only

VIEWS = {"shift": 0.15, "rotate": 0.3, "scale": 0.25, "contrast": 0.4, "brightness": 0.3, "noise": 0.05, "erase": 0.5}


class SimCLR(System):
    """Contrastive learning on a ResNet with a small stem.

    projection: width of z; temperature: tau; views: options of `Augment` ({} takes `VIEWS`).
    """

    answer = Embeddings

    def __init__(
        self,
        depths: list[int] = [2, 2, 2, 2],  # noqa: B006 - read only; a list so that JSON gives it back
        width: int = 64,
        projection: int = 128,
        temperature: float = 0.5,
        views: dict[str, float] = {},  # noqa: B006 - read only
        in_channels: int = 3,
        image_size: int = 32,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        if temperature <= 0:
            raise ValueError(f"temperature: expected a positive number, got {temperature}")
        self.temperature = temperature
        self.augment = Augment(**(views or VIEWS))
        self.encoder = ResNet(0, depths, width=width, stem="small", in_channels=in_channels, image_size=image_size)
        features = self.encoder.channels[-1]
        self.projector = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, projection))

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b features"]:
        """The representation h."""
        return self.encoder(self.normalize(image))

    def loss(self, batch: Batch) -> Losses:
        if batch.image is None:
            raise ValueError("batch.image: there is nothing to learn from")
        first, second = (self.augment(images_only(batch.image)).image for _ in range(2))
        one, other = (self.projector(self(view)) for view in (first, second))
        return {"nt_xent": nt_xent_loss(one, other, self.temperature)}

    def predict(self, batch: Batch) -> list[Embeddings]:
        return [Embeddings(vector) for vector in self(batch.image)]
