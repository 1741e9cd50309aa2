"""Mixing: pictures and labels by the same weight; the loss over soft labels is cross-entropy's."""

import pytest
import torch
from torch.nn import functional as F

from oculi.data.mixing import Mixing, cutmix, mixup, soft_labels, windows
from oculi.nn.classification import classification_loss
from oculi.types import Batch

CLASSES = 5


def batch(n=64):
    """Each picture says its own number everywhere, so that a mixture can be read off it."""
    label = torch.arange(n) % CLASSES
    return Batch(image=F.one_hot(label, CLASSES).float()[:, :, None, None].expand(n, CLASSES, 12, 10), label=label)


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}])
def test_labels_are_as_mixed_as_pictures(options):
    torch.manual_seed(0)
    given = batch()
    before = given.image.clone()
    for _ in range(4):
        mixed = Mixing(**options)(given, CLASSES)
        torch.testing.assert_close(mixed.image.mean((2, 3)), mixed.label, rtol=0, atol=1e-5)
        torch.testing.assert_close(mixed.label.sum(1), torch.ones(64))
        assert float((mixed.label.amax(1) < 0.999).float().mean()) > 0.2
    assert torch.equal(given.image, before)
    assert given.label.dtype == torch.int64


def test_mixup_by_hand():
    image, target = torch.tensor([0.0, 1.0])[:, None, None, None], torch.eye(2)
    mixed, soft = mixup(image, target, torch.tensor([1, 0]), torch.tensor([0.75, 0.6]))
    torch.testing.assert_close(mixed.flatten(), torch.tensor([0.25, 0.6]))
    torch.testing.assert_close(soft, torch.tensor([[0.75, 0.25], [0.4, 0.6]]))


def test_cutmix_weight_is_the_area_after_clipping():
    boxes = windows(torch.tensor([0.75, 0.75, 0.0]), torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.5, 0.5]]), 20, 20)
    assert boxes.tolist() == [[5, 5, 15, 15], [0, 0, 5, 5], [0, 0, 20, 20]]
    image = torch.tensor([0.0, 1.0, 2.0])[:, None, None, None].expand(3, 1, 20, 20)
    mixed, soft = cutmix(image, torch.eye(3), torch.tensor([1, 2, 0]), boxes)
    assert soft[:, 0].tolist() == pytest.approx([0.75, 0, 1.0])
    assert soft[1].tolist() == pytest.approx([0, 1 - 25 / 400, 25 / 400])
    assert int((mixed[0] == 1).sum()) == 100


def test_smoothing_equals_torchs():
    torch.manual_seed(1)
    logits, label = torch.randn(6, CLASSES), torch.tensor([0, 1, 2, 3, 4, 0])
    wanted = F.cross_entropy(logits, label, label_smoothing=0.1)
    smooth = Mixing(smoothing=0.1)(Batch(image=torch.zeros(6, 1, 2, 2), label=label), CLASSES)
    torch.testing.assert_close(classification_loss(logits, smooth.label)["cross_entropy"], wanted)
    torch.testing.assert_close(classification_loss(logits, label, 0.1)["cross_entropy"], wanted)
    torch.testing.assert_close(soft_labels(label, CLASSES, 0.1)[0], torch.tensor([0.92, 0.02, 0.02, 0.02, 0.02]))
    twice = soft_labels(soft_labels(label, CLASSES), CLASSES)
    assert torch.equal(twice, F.one_hot(label, CLASSES).float())


def test_hard_labels_as_soft_ones_give_the_same_loss_and_gradient():
    logits = torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(2)).requires_grad_()
    label = torch.tensor([3, 0, 0, 2])
    hard, soft = (classification_loss(logits, t)["cross_entropy"] for t in (label, soft_labels(label, CLASSES)))
    torch.testing.assert_close(hard, soft)
    torch.testing.assert_close(torch.autograd.grad(hard, logits), torch.autograd.grad(soft, logits))


def test_what_cannot_be_mixed():
    picture = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"batch.label: there is nothing"):
        Mixing(mixup=1.0)(Batch(image=picture), 3)
    for label in ([0, -1], [0, 3]):
        with pytest.raises(ValueError, match=r"batch.label: expected classes from 0 to 2"):
            Mixing(mixup=1.0)(Batch(image=picture, label=torch.tensor(label)), 3)
    with pytest.raises(ValueError, match="mixup"):
        Mixing(mixup=-1)
    with pytest.raises(ValueError, match="smoothing"):
        Mixing(smoothing=1.0)
