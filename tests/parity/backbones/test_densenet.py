"""DenseNet against torchvision: outputs, gradients and numbers of parameters at equal weights."""

import copy
import re

import pytest
import torch

from agreement import close
from oculi.backbones.densenet import DenseBlock, DenseNet
from oracles import torchvision


def renamed(name: str) -> str:
    """Ours for torchvision's `features.denseblock2.denselayer3.conv1.weight`."""
    name = re.sub(r"^features\.", "", name)
    name = re.sub(r"denseblock(\d+)\.", lambda found: f"blocks.{int(found[1]) - 1}.", name)
    name = re.sub(r"transition(\d+)\.", lambda found: f"transitions.{int(found[1]) - 1}.", name)
    name = re.sub(r"denselayer(\d+)\.", lambda found: f"layers.{int(found[1]) - 1}.", name)
    name = re.sub(r"(layers\.\d+)\.(norm|conv)(\d)", lambda found: f"{found[1]}.{int(found[3]) - 1}.{found[2]}", name)
    for theirs, ours in {"conv0": "stem.0", "norm0": "stem.1", "norm5": "norm", "classifier": "head"}.items():
        name = re.sub(f"^{theirs}", ours, name)
    return name


def copy_weights(theirs, ours):
    missing = ours.load_state_dict({renamed(k): v for k, v in theirs.state_dict().items()}, strict=False)
    assert set(missing.missing_keys) <= {"pixel_mean", "pixel_std"}
    assert not missing.unexpected_keys


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    theirs, ours = torchvision().models.densenet121(), DenseNet()
    with torch.no_grad():
        theirs.train()(torch.rand(4, 3, 64, 64))  # statistics other than 0 and 1
    copy_weights(theirs, ours)
    return theirs, ours


def test_outputs_equal_torchvisions(pair):
    theirs, ours = pair
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        close(ours.eval()(image), theirs.eval()(image))


def test_training_equals_torchvisions(pair):
    """In double precision: normalised over a few places, rounding grows through so many layers."""
    theirs, ours = (copy.deepcopy(network).double() for network in pair)
    image = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    wanted, found = theirs.train()(image), ours.train()(image)
    close(found, wanted)
    wanted.square().mean().backward()
    found.square().mean().backward()
    kept = theirs.features
    for mine, other in [
        (ours.stem[0], kept.conv0),
        (ours.blocks[1].layers[5][0].conv, kept.denseblock2.denselayer6.conv1),
        (ours.blocks[2].layers[23][1].conv, kept.denseblock3.denselayer24.conv2),
        (ours.blocks[3].layers[0][0].norm, kept.denseblock4.denselayer1.norm1),
        (ours.transitions[0].conv, kept.transition1.conv),
        (ours.norm, kept.norm5),
        (ours.head, theirs.classifier),
    ]:
        close(mine.weight.grad, other.weight.grad)


def test_block_equals_torchvisions():
    torchvision()
    from torchvision.models.densenet import _DenseBlock

    torch.manual_seed(0)
    theirs, ours = _DenseBlock(3, 10, bn_size=2, growth_rate=5, drop_rate=0.0), DenseBlock(10, 3, 5, bottleneck=2)
    copy_weights(theirs, ours)
    x = torch.randn(2, 10, 6, 7)
    close(ours(x), theirs(x))
