"""Answers in supervision's words, and back."""

import builtins

import numpy as np
import pytest
import torch

import oracles
from oculi.predictions import Detections


@pytest.fixture
def found():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, 1:3, 1:3] = masks[1, 4:, 4:] = True
    boxes = torch.tensor([[1.0, 1, 3, 3], [4, 4, 8, 8]])
    return Detections(boxes, torch.tensor([0.9, 0.4]), torch.tensor([1, 0]), masks, names=["cat", "dog"])


@pytest.mark.filterwarnings("ignore")
def test_supervision_gets_everything_and_gives_it_back(found):
    oracles.torchvision()
    supervision = oracles.oracle("supervision")
    theirs = found.to_supervision()
    assert isinstance(theirs, supervision.Detections)
    assert len(theirs) == 2
    np.testing.assert_array_equal(theirs.xyxy, found.boxes.numpy())
    assert theirs.data["class_name"].tolist() == ["dog", "cat"]
    assert theirs.class_id.tolist() == [1, 0]
    assert theirs[theirs.confidence > 0.5].mask.sum() == 4
    np.testing.assert_allclose(theirs.area, [4, 16])
    back = Detections.from_supervision(theirs[[1, 0]], found.names)
    for name in ("boxes", "scores", "labels", "masks"):
        assert torch.equal(getattr(back, name), getattr(found, name)), name
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    assert len(none.to_supervision()) == 0
    bare = supervision.Detections(xyxy=np.array([[0.0, 0, 1, 1]]))
    assert Detections.from_supervision(bare).scores.tolist() == [1]


def test_without_supervision_it_says_so(found, monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.partition(".")[0] == "supervision":
            raise ModuleNotFoundError("No module named 'supervision'", name="supervision")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="pip install supervision"):
        found.to_supervision()
