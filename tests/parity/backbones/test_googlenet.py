"""GoogLeNet against torchvision: outputs of all three heads, gradients and numbers of parameters at equal weights."""

import copy

import pytest
import torch

from agreement import close
from oculi.backbones.googlenet import GoogLeNet, InceptionModule
from oculi.nn.auxiliary_classifier import AuxiliaryClassifier
from oculi.types import Batch
from oracles import torchvision


def copy_weights(theirs, ours):
    """Both list their layers in the order in which data meets them; torchvision's auxiliary heads come before the last."""
    order = sorted(theirs.state_dict(), key=lambda name: name.startswith("aux"))
    source = [theirs.state_dict()[name] for name in order]
    target = [name for name in ours.state_dict() if not name.startswith("pixel_")]
    assert [v.shape for v in source] == [ours.state_dict()[name].shape for name in target]
    missing = ours.load_state_dict(dict(zip(target, source, strict=True)), strict=False).missing_keys
    assert set(missing) <= {"pixel_mean", "pixel_std"}


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    theirs = torchvision().models.googlenet(aux_logits=True, init_weights=False, dropout=0.0, dropout_aux=0.0)
    ours = GoogLeNet(dropout=0.0, auxiliary_dropout=0.0)
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
    image, label = torch.rand(2, 3, 64, 64, dtype=torch.float64), torch.tensor([3, 999])
    wanted, second, first = theirs.train()(image)
    found, auxiliary = ours.train().all_logits(image)
    for mine, other in zip([found, *auxiliary], [wanted, first, second], strict=True):
        close(mine, other)
    close(ours.stem[0].conv[1].running_var, theirs.conv1.bn.running_var)
    cross_entropy = torch.nn.functional.cross_entropy
    total = cross_entropy(wanted, label) + 0.3 * (cross_entropy(first, label) + cross_entropy(second, label))
    losses = ours.loss(Batch(image=image, label=label))
    assert list(losses) == ["cross_entropy", "auxiliary_1", "auxiliary_2"]
    close(sum(losses.values()), total)
    total.backward()
    sum(losses.values()).backward()
    for mine, other in [
        (ours.stem[0].conv[0], theirs.conv1.conv),
        (ours.stages[1][0].large[1].conv[0], theirs.inception4a.branch3[1].conv),
        (ours.stages[0][1].pooled[1].conv[1], theirs.inception3b.branch4[1].bn),
        (ours.auxiliary[1].hidden, theirs.aux2.fc1),
        (ours.head, theirs.fc),
    ]:
        close(mine.weight.grad, other.weight.grad)


def test_parts_equal_torchvisions():
    torchvision()
    from torchvision.models.googlenet import Inception, InceptionAux

    torch.manual_seed(0)
    widths = (192, 96, 208, 16, 48, 64)
    theirs, ours = Inception(480, *widths), InceptionModule(480, widths, large_kernel=3)
    copy_weights(theirs, ours)
    x = torch.randn(2, 480, 9, 7)
    close(ours(x), theirs(x))
    assert ours.outputs == ours(x).shape[1] == 192 + 208 + 48 + 64
    theirs, ours = InceptionAux(512, 10).eval(), AuxiliaryClassifier(512, 10).eval()
    copy_weights(theirs, ours)
    x = torch.randn(2, 512, 14, 14)
    close(ours(x), theirs(x))
