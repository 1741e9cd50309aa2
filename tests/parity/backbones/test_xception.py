"""Xception against timm: outputs, maps, gradients and the number of parameters at equal weights."""

import copy

import pytest
import torch

from agreement import close
from oculi.backbones.xception import Xception
from oracles import timm


def copy_weights(theirs, ours):
    """Both list their layers in the order in which data meets them, but timm names a block's skip path first."""
    kept = theirs.state_dict()
    order = sorted(kept, key=place)
    target = [name for name in ours.state_dict() if not name.startswith("pixel_")]
    assert [kept[name].shape for name in order] == [ours.state_dict()[name].shape for name in target]
    ours.load_state_dict({name: kept[other] for name, other in zip(target, order, strict=True)}, strict=False)


def place(name: str) -> tuple[int, int]:
    """(rank of the layer among its neighbours, skip path last)."""
    head = name.split(".")[0]
    if head.startswith("block"):
        return 10 + int(head[5:]), int("skip" in name)
    return {"conv1": 0, "bn1": 1, "conv2": 2, "bn2": 3, "conv3": 30, "bn3": 31, "conv4": 32, "bn4": 33, "fc": 34}[
        head
    ], 0


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    theirs, ours = timm().create_model("legacy_xception"), Xception()
    with torch.no_grad():
        theirs.train()(torch.rand(4, 3, 64, 64))  # statistics other than 0 and 1
    copy_weights(theirs, ours)
    return theirs, ours


def test_outputs_and_maps_equal_timms(pair):
    theirs, ours = pair
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        close(ours.eval()(image), theirs.eval()(image))
        _, maps = theirs.forward_intermediates(image)
        for mine, other in zip(ours.features(image), maps, strict=True):
            close(mine, other)
    assert ours.strides == [info["reduction"] for info in theirs.feature_info]
    assert ours.channels == [info["num_chs"] for info in theirs.feature_info]


def test_training_equals_timms(pair):
    """In double precision: normalised over a few places, rounding grows through so many layers."""
    theirs, ours = (copy.deepcopy(network).double() for network in pair)
    image = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    wanted, found = theirs.train()(image), ours.train()(image)
    close(found, wanted)
    wanted.square().mean().backward()
    found.square().mean().backward()
    for mine, other in [
        (ours.stem[0][0], theirs.conv1),
        (ours.stages[0].convs[0][0].depthwise, theirs.block1.rep[0].conv1),
        (ours.stages[2][3].convs[1][0].pointwise, theirs.block6.rep[4].pointwise),
        (ours.stages[3].skip[0], theirs.block12.skip),
        (ours.final[1][1], theirs.bn4),
        (ours.head, theirs.fc),
    ]:
        close(mine.weight.grad, other.weight.grad)
