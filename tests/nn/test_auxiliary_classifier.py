"""Auxiliary classifiers: any size of map, losses by name, unlabelled pictures left out."""

import pytest
import torch

from oculi.nn.auxiliary_classifier import AuxiliaryClassifier, auxiliary_losses


@pytest.mark.parametrize("size", [(14, 14), (4, 4), (3, 9)])
def test_any_size(size):
    head = AuxiliaryClassifier(6, 5, channels=3, hidden=7)
    assert head(torch.randn(2, 6, *size)).shape == (2, 5)


def test_losses_are_named_and_weighted():
    logits, label = torch.randn(3, 5), torch.tensor([0, 4, -1])
    losses = auxiliary_losses([logits, 2 * logits], label, weight=0.5)
    assert list(losses) == ["auxiliary_1", "auxiliary_2"]
    expected = 0.5 * torch.nn.functional.cross_entropy(logits[:2], label[:2])
    torch.testing.assert_close(losses["auxiliary_1"], expected)
    assert auxiliary_losses([], label) == {}
    with pytest.raises(ValueError, match=r"batch\.label"):
        auxiliary_losses([logits], None)
