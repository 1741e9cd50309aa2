r"""LeNet: convolutions and pooling in turn, then fully connected layers; the network to begin a project with.

    stage i    5x5 convolution without padding to c_i channels, ReLU, 2x2 max pooling:  side n -> (n - 4) / 2
    hidden     fully connected layers with ReLU
    head       fully connected, one logit per class

    image      batch x C x H x W
    logits     batch x classes

With the defaults this is the small network of most tutorials, for 3 x 32 x 32 pictures: sides 32 -> 28 -> 14 -> 10 -> 5,
400 features, 120, 84, 10; 456 + 2,416 + 48,120 + 10,164 + 850 = 62,006 parameters.

Differs from the paper, as everybody does today: ReLU for tanh, max pooling for averaging with learned weights, every map
connected with every other, a linear head with cross-entropy for radial basis functions.

LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, Proc. IEEE 86(11), 1998.
"""

from __future__ import annotations

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses

KERNEL = 5


class LeNet(System):
    """LeNet for small pictures. channels: of each convolution; hidden: of each fully connected layer before the head."""

    answer = Classes

    def __init__(
        self,
        num_classes: int = 10,
        channels: list[int] = [6, 16],  # noqa: B006 - read only; a list so that JSON gives it back
        hidden: list[int] = [120, 84],  # noqa: B006
        in_channels: int = 3,
        image_size: int = 32,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        side = image_size
        for _ in channels:
            side = (side - KERNEL + 1) // 2
            if side < 1:
                raise ValueError(f"image_size: {image_size} pixels are too few for {len(channels)} stages")
        self.convs = nn.ModuleList(nn.Conv2d(a, b, KERNEL) for a, b in pairwise([in_channels, *channels]))
        sizes = [([in_channels, *channels][-1]) * side * side, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(sizes[-1], num_classes)

    def features(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The map of each stage after pooling, finest first."""
        x, maps = self.normalize(image), []
        for conv in self.convs:
            x = F.max_pool2d(F.relu(conv(x)), 2)
            maps.append(x)
        return maps

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits."""
        x = self.features(image)[-1].flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.head(x)

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)
