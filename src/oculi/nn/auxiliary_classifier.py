r"""Auxiliary classifiers: extra heads on middle maps, so that early layers are told directly what matters.

    head       4x4 average pooling, 1x1 convolution with batch norm and ReLU, fully connected with ReLU, dropout, linear
    training   total = cross_entropy(logits) + weight * sum_i cross_entropy(auxiliary logits_i)      weight = 0.3
    test       the heads are not run

    map        batch x inputs x h x w          any size
    logits     batch x classes

They regularise, and they hand gradients to the middle of a deep network (deep supervision).

Szegedy et al.: Going Deeper with Convolutions, 2014, arXiv:1409.4842. Lee, Xie, Gallagher, Zhang, Tu: Deeply-Supervised
Nets, 2014, arXiv:1409.5185.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.nn.classification import classification_loss
from oculi.nn.convolution import conv_norm
from oculi.types import Losses

SIDE = 4


class AuxiliaryClassifier(nn.Module):
    """The head of GoogLeNet. channels: of its convolution; hidden: of its fully connected layer."""

    def __init__(self, inputs: int, classes: int, channels: int = 128, hidden: int = 1024, dropout: float = 0.7):
        super().__init__()
        self.conv = conv_norm(inputs, channels, 1, eps=1e-3)
        self.hidden = nn.Linear(channels * SIDE * SIDE, hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b classes"]:
        x = F.relu(self.conv(F.adaptive_avg_pool2d(x, SIDE)), inplace=True)
        return self.head(self.dropout(F.relu(self.hidden(x.flatten(1)), inplace=True)))


def auxiliary_losses(
    logits: list[Float[Tensor, "b classes"]], label: Int[Tensor, " b"] | None, weight: float = 0.3
) -> Losses:
    """`auxiliary_1`, `auxiliary_2`, ...: cross-entropies times `weight`, to be added to the main one."""
    each = [classification_loss(one, label)["cross_entropy"] for one in logits]
    return {f"auxiliary_{place}": weight * value for place, value in enumerate(each, 1)}
