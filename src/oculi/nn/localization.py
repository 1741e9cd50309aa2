r"""Localisation head: the class and the box of the one object in view, from one vector.

    scores   batch x classes
    box      x1 y1 x2 y2 as shares of the view's sides: 0 0 1 1 is all of it; it may reach beyond

It has one answer, so it does not extend to several objects, whose number is not known; a detector lets it look at many
places instead.

Sermanet et al.: OverFeat, 2013, arXiv:1312.6229.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.types import Losses

BETA = 0.1  # shares of the view


class LocalizationHead(nn.Module):
    """A hidden layer, then scores and box."""

    def __init__(self, features: int, hidden: int, classes: int):
        super().__init__()
        self.hidden = nn.Linear(features, hidden)
        self.classes, self.box = nn.Linear(hidden, classes), nn.Linear(hidden, 4)
        nn.init.normal_(self.box.weight, std=0.01)
        nn.init.zeros_(self.box.bias)

    def forward(self, x: Float[Tensor, "n features"]) -> tuple[Float[Tensor, "n classes"], Float[Tensor, "n 4"]]:
        x = F.relu(self.hidden(x))
        return self.classes(x), self.box(x) + x.new_tensor([0, 0, 1, 1])


def in_view(boxes: Float[Tensor, "*#n 4"], views: Float[Tensor, "*#n 4"]) -> Float[Tensor, "... 4"]:
    """Boxes in pixels as shares of their views.

    >>> in_view(torch.tensor([[12.0, 5, 16, 10]]), torch.tensor([[10.0, 0, 20, 10]]))
    tensor([[0.2000, 0.5000, 0.6000, 1.0000]])
    """
    corner, size = views[..., :2], views[..., 2:] - views[..., :2]
    return (boxes - torch.cat([corner, corner], -1)) / torch.cat([size, size], -1)


def out_of_view(shares: Float[Tensor, "*#n 4"], views: Float[Tensor, "*#n 4"]) -> Float[Tensor, "... 4"]:
    """The inverse: boxes in pixels."""
    corner, size = views[..., :2], views[..., 2:] - views[..., :2]
    return shares * torch.cat([size, size], -1) + torch.cat([corner, corner], -1)


def localization_loss(
    scores: Float[Tensor, "n classes"],
    boxes: Float[Tensor, "n 4"],
    label: Int[Tensor, " n"],
    wanted: Float[Tensor, "n 4"],
    present: Bool[Tensor, " n"],
) -> Losses:
    """Cross-entropy of all views, and smooth L1 of the boxes (in shares) where an object is present."""
    away = F.smooth_l1_loss(boxes[present], wanted[present], beta=BETA, reduction="sum")
    return {"classes": F.cross_entropy(scores, label), "boxes": away / max(1, int(present.sum()))}
