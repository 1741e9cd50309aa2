"""LeNet against the tutorial's network written as a plain sequence, and its numbers of parameters."""

import pytest
import torch
from torch import nn

from oculi.backbones.lenet import LeNet


def test_equals_the_tutorial_network():
    theirs = nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )
    ours = LeNet()
    weights = [name for name, _ in ours.named_parameters()]
    ours.load_state_dict(dict(zip(weights, theirs.state_dict().values(), strict=True)), strict=False)
    counts = [sum(p.numel() for p in layer.parameters()) for layer in (*ours.convs, *ours.hidden, ours.head)]
    assert counts == [456, 2416, 48120, 10164, 850]
    assert sum(counts) == 62_006
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(image), theirs(image))
    assert [tuple(x.shape) for x in theirs[:3](image)[None]] == [(2, 6, 14, 14)]
    assert [tuple(x.shape) for x in ours.features(image)] == [(2, 6, 14, 14), (2, 16, 5, 5)]


def test_too_small_a_picture_is_named():
    with pytest.raises(ValueError, match="image_size: 12 pixels are too few for 2 stages"):
        LeNet(image_size=12)
