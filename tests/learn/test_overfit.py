"""One batch is learned by heart by a healthy pipeline and by no broken one; the rate finder; where test error comes from."""

from dataclasses import replace

import pytest
import torch

from oculi.learn.error_decomposition import decompose_error, error_decomposition
from oculi.learn.learner import Training, fit
from oculi.learn.lr_finder import lr_finder, propose_rate
from oculi.learn.overfit import overfit_one_batch
from oculi.learn.protocols.classification import score
from oculi.learn.training_doctor import Changed, _flipped_sign, _frozen, healthy
from oculi.predictions import Classes
from oculi.types import Sample


def test_a_healthy_pipeline_learns_one_batch_by_heart():
    case = healthy(0)
    before = {k: v.clone() for k, v in case.system.state_dict().items()}
    found = overfit_one_batch(case.system, case.splits.train, Training(steps=150, lr=5e-3))
    assert found.reached
    assert found.shape == "falls"
    assert found.loss[-1] < 0.01
    assert found.causes == []
    assert all(torch.equal(v, before[k]) for k, v in case.system.state_dict().items())


@pytest.mark.parametrize("bug", ["frozen weights", "no rate", "shuffled labels", "flipped sign", "huge rate"])
def test_a_broken_one_does_not(bug):
    case, training = healthy(0), Training(steps=40, lr=5e-3)
    dataset, shape = case.splits.train, "plateaus"
    if bug == "frozen weights":
        case = _frozen(case, 0)
    elif bug == "no rate":
        training = replace(training, lr=0.0)
    elif bug == "shuffled labels":
        generator = torch.Generator().manual_seed(0)
        dataset = Changed(dataset, lambda s, i: replace(s, label=int(torch.randint(10, (), generator=generator))))
    elif bug == "flipped sign":
        case, shape = _flipped_sign(case, 0), "goes up"
    else:
        training, shape = replace(training, optimizer="sgd", lr=1e4), "explodes"
    found = overfit_one_batch(case.system, dataset, training)
    assert not found.reached
    assert found.shape == shape
    assert found.causes


def test_the_proposed_rate_is_within_a_factor_of_five_of_the_best():
    accuracy = {}
    for rate in (1e-5, 1e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 1.0):
        case = healthy(0, steps=50)
        fit(case.system, replace(case.training, lr=rate), case.splits, progress=False)
        accuracy[rate] = score(case.system.eval(), case.splits, "validation")["accuracy"]
    best = max(accuracy, key=lambda rate: accuracy[rate])
    case = healthy(0)
    before = {k: v.clone() for k, v in case.system.state_dict().items()}
    found = lr_finder(case.system, case.splits, case.training, lowest=1e-5, highest=10, steps=120)
    assert best / 5 <= found.proposal <= 5 * best, (accuracy, found.proposal)
    assert all(torch.equal(v, before[k]) for k, v in case.system.state_dict().items())
    ratios = [b / a for a, b in zip(found.rates, found.rates[1:])]
    assert max(ratios) == pytest.approx(min(ratios))  # lr_min (lr_max / lr_min)^(i / n)
    assert found.rates[0] == 1e-5


def test_bad_searches_are_named():
    case = healthy(0, steps=1)
    with pytest.raises(ValueError, match=r"lowest: expected a positive rate below highest 0\.1, got 1"):
        lr_finder(case.system, case.splits, lowest=1, highest=0.1)
    with pytest.raises(ValueError, match="steps: expected at least 20, got 3"):
        lr_finder(case.system, case.splits, steps=3)
    with pytest.raises(ValueError, match="it never falls"):
        propose_rate([1, 2, 3, 4], [1, 2, 3, 4])
    with pytest.raises(ValueError, match="one for each of 2 rates, got 3"):
        propose_rate([1, 2], [1, 2, 3])


def test_the_terms_add_up_to_the_test_error():
    found = decompose_error(0.05, 0.08, 0.15, test_validation=0.13, irreducible=0.01)
    terms = (found.bias, found.variance, found.distribution_shift, found.validation_overfitting)
    assert terms == pytest.approx((0.04, 0.03, 0.05, 0.02))
    assert found.test_error == pytest.approx(0.15)
    assert [finding.cause for finding in found.findings()] == ["distribution_shift"]
    assert [f.cause for f in decompose_error(0.3, 0.4, 0.4).findings()] == ["underfitting", "overfitting"]
    assert found.findings()[0].kind == "construction of the data set"
    with pytest.raises(ValueError, match=r"test: expected an error in \[0, 1\], got 1.5"):
        decompose_error(0, 0, 1.5)


class _Threshold(torch.nn.Module):
    """Says 1 for bright pictures."""

    answer = Classes
    training = False
    device = torch.device("cpu")

    def predict(self, batch):
        bright = (batch.image.flatten(1).mean(1) > 0.5).long()
        return [Classes(row) for row in torch.nn.functional.one_hot(bright, 2).float()]


@pytest.mark.unchecked
def test_a_planted_shift_is_found():
    def data(gain):
        shades = torch.linspace(0, 1, 101)[:-1]
        return [Sample(image=torch.full((1, 2, 2), float(s) * gain), label=int(s > 0.5)) for s in shades]

    from oculi.data.datasets import Splits

    splits = Splits(data(1.0), data(1.0), data(0.8))
    found = error_decomposition(_Threshold(), splits, test_validation=data(0.8))
    assert found.bias == found.variance == found.validation_overfitting == 0
    assert found.distribution_shift == pytest.approx(0.12, abs=0.02)
    assert found.largest == "distribution_shift"
    assert error_decomposition(_Threshold(), splits).distribution_shift == 0
