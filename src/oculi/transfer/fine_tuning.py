r"""Fine-tuning: a network trained on many pictures of other classes learns new ones from a few.

    1. the last layer is replaced by one for the new classes
    2. it alone learns at first; then the layers before it, the later before the earlier (gradual unfreezing)
    3. early layers, which see edges and textures that all pictures share, learn at a small rate or not at all:
       lr_g = lr d^(G - 1 - g) for group g of G

Steps 2 and 3 are options of any training, `unfreeze`, `lr_decay` and `freeze` (`freeze: -1` alone is the fixed feature
extractor). The trunk is a ResNet's, whose weights `adopt` takes, normalisation included: pictures have to enter as they
did when the trunk was trained.

    image    batch x C x H x W
    trunk    batch x features
    head     batch x classes

With few pictures like the old ones a fixed extractor is best, since there is little to fit and much to spoil; the more
pictures there are, or the less they resemble the old ones, the more layers should learn: `advice`.

Yosinski, Clune, Bengio, Lipson: How Transferable Are Features in Deep Neural Networks?, 2014, arXiv:1411.1792.
Howard, Ruder: Universal Language Model Fine-tuning (gradual unfreezing), 2018, arXiv:1801.06146.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from oculi.backbones.resnet import ResNet
from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses

FEW_PER_CLASS = 20


class FineTuning(System):
    """A ResNet with a new last layer. `pretrained` false leaves the trunk as it was drawn: training from scratch."""

    answer = Classes

    def __init__(
        self,
        num_classes: int = 1000,
        depths: list[int] = [2, 2, 2, 2],  # noqa: B006 - read only; a list so that JSON gives it back
        bottleneck: bool = False,
        width: int = 64,
        stem: Literal["imagenet", "small"] = "imagenet",
        in_channels: int = 3,
        image_size: int = 224,
        pretrained: bool = True,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        self.pretrained, self.adopted = pretrained, False
        self.trunk = ResNet(0, depths, bottleneck, width, stem, in_channels, image_size)
        self.head = nn.Linear(self.trunk.channels[-1], num_classes)

    def adopt(self, source: System) -> None:
        """Everything of a trained ResNet but its last layer, normalisation included. ValueError when it does not fit."""
        if self.pretrained:
            super().adopt(source)
            if isinstance(source, ResNet):  # of a whole FineTuning the trunk's own have come along
                self.trunk.set_statistics(source.pixel_mean.flatten(), source.pixel_std.flatten())
            self.adopted = True

    def set_statistics(self, mean: Float[Tensor, " channels"], std: Float[Tensor, " channels"]) -> None:
        """The trunk normalises, with these figures unless it has adopted others."""
        super().set_statistics(mean, std)
        if not self.adopted:
            self.trunk.set_statistics(mean, std)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits of the new classes."""
        return self.head(self.trunk(image))

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)


def similarity(old: Float[Tensor, "n d"], new: Float[Tensor, "m d"]) -> float:
    """How far the new features' mean lies inside the spread of the old ones, in (0, 1]: 1 / (1 + |difference| / sigma).

    >>> import torch
    >>> old = torch.tensor([[0.0], [2.0]])
    >>> round(similarity(old, old), 4), round(similarity(old, old + 2), 4)
    (1.0, 0.3333)
    """
    apart = (new.mean(0) - old.mean(0)).square().mean().sqrt()
    spread = (old - old.mean(0)).square().mean().sqrt().clamp_min(1e-12)
    return float(1 / (1 + apart / spread))


def advice(per_class: int, alike: float) -> dict[str, float]:
    """Training options for so many new pictures of a class, `alike` from 0 (nothing like the old ones) to 1.

    >>> advice(10, 0.9)
    {'freeze': -1}
    >>> advice(10, 0.2)
    {'freeze': 1, 'lr_decay': 0.5}
    >>> advice(500, 0.9)
    {'lr_decay': 0.5}
    """
    if per_class < 1 or not 0 <= alike <= 1:
        raise ValueError(f"per_class, alike: expected 1 or more and 0 to 1, got {per_class} and {alike}")
    if per_class < FEW_PER_CLASS:
        return {"freeze": -1} if alike >= 0.5 else {"freeze": 1, "lr_decay": 0.5}
    return {"lr_decay": 0.5 if alike >= 0.5 else 1.0}
