"""The perceptron against torch's own layers in a row: equal outputs and gradients."""

import pytest
import torch
from torch import nn

from oculi.fundamentals.mlp import ACTIVATIONS, MLP
from oculi.types import Batch


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equals_torchs_layers(activation):
    torch.manual_seed(0)
    ours = MLP(5, [12, 8], activation, in_channels=3, image_size=4)
    make = ACTIVATIONS[activation]
    theirs = nn.Sequential(nn.Flatten(), nn.Linear(48, 12), make(), nn.Linear(12, 8), make(), nn.Linear(8, 5))
    state = [v for k, v in ours.state_dict().items() if not k.startswith("pixel_")]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state, strict=True)))
    image, label = torch.rand(6, 3, 4, 4), torch.tensor([0, 1, 2, 3, 4, 0])
    torch.testing.assert_close(ours(image), theirs(image))
    ours.loss(Batch(image=image, label=label))["cross_entropy"].backward()
    nn.functional.cross_entropy(theirs(image), label).backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
