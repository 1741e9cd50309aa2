"""Several answers as one: averages and votes by hand, views undone exactly, bad company refused."""

import pytest
import torch
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression

from oculi.learn.ensemble import combined, disagreement, predict_together
from oculi.learn.test_time_augmentation import predict_augmented, seen, undone
from oculi.learn.training import build
from oculi.predictions import Classes, Depth, Detections, Embeddings, Segmentation
from oculi.system import predict
from oculi.types import Batch

VIEWS = ("plain", "flip", "flip_vertical", "quarter", "half", "three_quarters")


def several(n=3):
    made = []
    for seed in range(n):
        torch.manual_seed(seed)
        made.append(build("resnet", tiny=True).eval())
    return made


def test_members_are_averaged_or_vote():
    systems, batch = several(), Batch(image=torch.rand(4, 1, 16, 16))
    each = torch.stack([torch.stack([a.probabilities for a in predict(system, batch)]) for system in systems])
    mean = torch.stack([a.probabilities for a in predict_together(systems, batch)])
    torch.testing.assert_close(mean, each.mean(0))
    votes = torch.stack([a.probabilities for a in predict_together(systems, batch, "vote")])
    torch.testing.assert_close(votes, torch.nn.functional.one_hot(each.argmax(2), 10).float().mean(0))


def test_equals_scikit_learns_voting():
    torch.manual_seed(0)
    x, y = torch.randn(60, 4), torch.randint(0, 3, (60,))
    members = [(str(c), LogisticRegression(C=c)) for c in (0.01, 1.0, 100.0)]
    soft = VotingClassifier(members, voting="soft").fit(x.numpy(), y.numpy())
    each = [[Classes(torch.from_numpy(p)) for p in m.predict_proba(x.numpy())] for m in soft.estimators_]
    ours = torch.stack([combined(answers).probabilities for answers in zip(*each, strict=True)])
    torch.testing.assert_close(ours, torch.from_numpy(soft.predict_proba(x.numpy())))


def test_disagreement_is_zero_among_equals_and_never_negative():
    torch.manual_seed(0)
    members = torch.randn(5, 20, 4).softmax(-1)
    whole, part = disagreement(members)
    assert (part >= 0).all()
    assert (part <= whole).all()
    torch.testing.assert_close(disagreement(members[:1].expand(3, 20, 4))[1], torch.zeros(20), rtol=0, atol=1e-6)


@pytest.mark.parametrize("view", VIEWS)
def test_views_are_undone_exactly(view):
    probabilities = torch.rand(3, 8, 12).softmax(0)
    turned = seen(probabilities[None], view)[0]
    answer = undone(Segmentation(turned.argmax(0), turned), view, (8, 12))
    assert torch.equal(answer.probabilities, probabilities)
    assert torch.equal(answer.semantic, probabilities.argmax(0))
    depth = undone(Depth(turned[0]), view, (8, 12))
    assert torch.equal(depth.depth, probabilities[0])


def test_dense_answers_of_all_views_become_equivariant():
    """Averaged over all mirror images, the answer is mirrored with the picture; a single one is not."""
    torch.manual_seed(0)
    system = build("unet", tiny=True).eval()
    c = system.contract
    image = torch.rand(2, c.channels, c.height, c.width)
    mirrors = ("plain", "flip", "flip_vertical", "half")  # the group of mirrors: closed under itself
    for views, turns in ((mirrors, True), (("plain",), False)):
        here = predict_augmented(system, Batch(image=image), views)
        there = predict_augmented(system, Batch(image=image.flip(-1)), views)
        apart = max(float((a.probabilities - b.probabilities.flip(-1)).abs().max()) for a, b in zip(here, there))
        assert (apart < 1e-5) == turns


def test_zooms_give_answers_of_the_pictures_size_and_classes_need_no_undoing():
    system = build("unet", tiny=True).eval()
    image = torch.rand(1, system.contract.channels, 16, 16)
    (answer,) = predict_augmented(system, Batch(image=image), ("plain", "2.0"))
    assert answer.probabilities.shape[-2:] == (16, 16)
    classifier = several(1)[0]
    image = torch.rand(2, 1, 16, 16)
    (one, _) = predict_augmented(classifier, Batch(image=image), ("plain", "flip"))
    by_hand = (predict(classifier, Batch(image=image))[0].probabilities
               + predict(classifier, Batch(image=image.flip(-1)))[0].probabilities) / 2  # fmt: skip
    torch.testing.assert_close(one.probabilities, by_hand)
    assert len(predict_augmented(classifier, [image[0]], ("plain",))) == 1


def test_depths_and_vectors_are_averaged():
    depth = combined([Depth(torch.full((2, 2), 1.0)), Depth(torch.full((2, 2), 3.0))])
    assert float(depth.depth[0, 0]) == 2
    assert combined([Embeddings(torch.tensor([1.0, 3.0])), Embeddings(torch.tensor([3.0, 3.0]))]).vector.tolist() == [
        2,
        3,
    ]


def test_bad_company():
    one, other = Classes(torch.tensor([0.5, 0.5])), Classes(torch.tensor([0.2, 0.3, 0.5]))
    boxes = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="answers: expected one shape"):
        combined([one, other])
    with pytest.raises(ValueError, match="answers: expected one kind"):
        combined([one, Embeddings(torch.zeros(2))])
    with pytest.raises(ValueError, match="Detections have no mean"):
        combined([boxes, boxes])
    with pytest.raises(ValueError, match="cannot be undone on Detections"):
        undone(boxes, "flip", (4, 4))
    with pytest.raises(ValueError, match="labels alone"):
        combined([Segmentation(torch.zeros(2, 2, dtype=torch.int64))] * 2)
    with pytest.raises(ValueError, match="systems: expected at least one"):
        predict_together([], Batch(image=torch.zeros(1, 1, 4, 4)))
    with pytest.raises(ValueError, match="views: expected one of plain"):
        seen(torch.zeros(1, 1, 4, 4), "sideways")
    with pytest.raises(ValueError, match="views: expected at least one"):
        predict_augmented(several(1)[0], Batch(image=torch.zeros(1, 1, 16, 16)), ())
