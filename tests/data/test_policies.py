"""Policies: exactly the operations asked for, boxes and masks along, by torch's seed."""

import pytest
import torch

from oculi.data import policies
from oculi.data.policies import OPERATIONS, AutoAugment, RandAugment, amount, apply, policy_for, sub_policies
from oculi.geometry.camera import Camera, intrinsics
from oculi.types import Batch


def scene(n=8):
    torch.manual_seed(0)
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, 8:20, 10:24] = True
    return Batch(
        image=torch.rand(n, 3, 32, 32),
        boxes=[torch.tensor([[10.0, 8, 24, 20]])] * n,
        labels=[torch.tensor([1])] * n,
        masks=[mask] * n,
    )


def test_randaugment_applies_exactly_n_of_the_list(monkeypatch):
    rounds = []
    monkeypatch.setattr(policies, "apply", lambda batch, chosen, strength: rounds.append(chosen) or batch)
    torch.manual_seed(0)
    RandAugment(3, 9)(scene(2000))
    assert [len(chosen) for chosen in rounds] == [2000] * 3
    counts = torch.cat(rounds).bincount(minlength=len(OPERATIONS)).float() / 6000
    assert counts[OPERATIONS.index("Invert")] == 0
    others = counts[[name != "Invert" for name in OPERATIONS]]
    assert (others - 1 / 14).abs().max() < 0.015


def test_autoaugment_follows_its_probabilities(monkeypatch):
    rounds = []
    monkeypatch.setattr(policies, "apply", lambda batch, chosen, strength: rounds.append(chosen) or batch)
    torch.manual_seed(0)
    AutoAugment("cifar10")(scene(4000))
    assert len(rounds) == 2
    happening = [(c != OPERATIONS.index("Identity")).float().mean() for c in rounds]
    for turn in range(2):
        wanted = sum(row[turn][1] for row in sub_policies("cifar10")) / 25
        assert float(happening[turn]) == pytest.approx(wanted, abs=0.03)


@pytest.mark.parametrize("policy", [RandAugment(2, 15), AutoAugment("svhn")])
def test_boxes_follow_their_masks(policy):
    torch.manual_seed(3)
    given = scene(48)
    moved = policy(given)
    assert moved.image.shape == given.image.shape
    assert 0 <= float(moved.image.min()) <= float(moved.image.max()) <= 1
    changed = 0
    for boxes, masks in zip(moved.boxes, moved.masks, strict=True):
        for box, mask in zip(boxes, masks, strict=True):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            tight = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
            assert ((box[:2] - tight[:2]) < 1.5).all()
            assert ((tight[2:] - box[2:]) < 1.5).all()
            changed += int((box - torch.tensor([10.0, 8, 24, 20])).abs().max() > 1)
    assert changed > 5


def test_the_seed_decides_and_identity_changes_nothing():
    given = scene()
    before = given.image.clone()
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(RandAugment()(given).image)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert torch.equal(given.image, before)
    chosen = torch.full((8,), OPERATIONS.index("Identity"))
    assert torch.equal(apply(given, chosen, torch.ones(8)).image, before)
    assert RandAugment(operations=0)(given) is given


def test_magnitudes():
    assert amount("Rotate", 30, 31, 32, 32) == pytest.approx(torch.pi / 6)
    assert amount("ShearX", 15, 31, 32, 32) == pytest.approx(0.15)
    assert amount("TranslateX", 9, 10, 10, 331) == pytest.approx(150)
    assert [amount("Posterize", k, 31, 8, 8) for k in (0, 15, 30)] == [8, 6, 4]
    assert amount("Solarize", 30, 31, 8, 8) == 0
    assert amount("Color", 10, 31, 8, 8) == pytest.approx(0.3)


def test_by_name_and_bad_input():
    assert policy_for({"name": "randaugment", "magnitude": 5}) == RandAugment(2, 5)
    assert policy_for({"name": "autoaugment", "data": "svhn"}) == AutoAugment("svhn")
    with pytest.raises(ValueError, match="did you mean randaugment"):
        policy_for({"name": "randaugmet"})
    with pytest.raises(ValueError, match="magnitude"):
        RandAugment(2, 31)
    camera = Camera(intrinsics(8, 8, 4, 4)[None], torch.eye(4)[None], 8, 8)
    with pytest.raises(ValueError, match=r"batch.camera"):
        apply(Batch(image=torch.rand(1, 3, 8, 8), camera=camera), torch.tensor([0]), torch.tensor([0.1]))


@pytest.mark.unchecked
def test_an_unknown_data_set():
    with pytest.raises(ValueError, match="no policy was published for cifar"):
        AutoAugment("cifar")
