"""Scores of classifiers against scikit-learn, and calibration by hand."""

import pytest
import torch
from sklearn import metrics as sk

from oculi.metrics.classification import (
    average_precision,
    calibration_error,
    f1_score,
    macro_f1,
    pr_curve,
    precision,
    recall,
    reliability,
    roc_area,
    roc_curve,
)


def drawn(n=200, ties=True):
    torch.manual_seed(0)
    label = (torch.rand(n) < 0.3).long()
    score = torch.randn(n) + label
    return (score * 4).round() / 4 if ties else score, label


def test_shares_equal_scikit_learns():
    score, label = drawn()
    said = (score > 0.5).long()
    for positive in (0, 1):
        for ours, theirs in ((precision, sk.precision_score), (recall, sk.recall_score), (f1_score, sk.f1_score)):
            assert ours(said, label, positive) == pytest.approx(theirs(label, said, pos_label=positive))
    several, truth = torch.randint(0, 4, (100,)), torch.randint(0, 5, (100,))
    assert macro_f1(several, truth) == pytest.approx(sk.f1_score(truth, several, average="macro", zero_division=0))


def test_f1_of_half_and_whole():
    said, label = torch.tensor([1, 1]), torch.tensor([1, 0])
    assert (precision(said, label), recall(said, label)) == (0.5, 1.0)
    assert f1_score(said, label) == pytest.approx(0.6667, abs=1e-4)
    nothing = torch.zeros(2, dtype=torch.int64)
    assert (precision(nothing, label), recall(nothing, label), f1_score(nothing, label)) == (0, 0, 0)


@pytest.mark.parametrize("ties", [True, False])
def test_curves_equal_scikit_learns(ties):
    score, label = drawn(ties=ties)
    for ours, theirs in zip(roc_curve(score, label), sk.roc_curve(label, score, drop_intermediate=False), strict=True):
        torch.testing.assert_close(ours.double(), torch.from_numpy(theirs).double())
    assert roc_area(score, label) == pytest.approx(sk.roc_auc_score(label, score))
    exact, found, thresholds = sk.precision_recall_curve(label, score)
    mine = pr_curve(score, label)
    torch.testing.assert_close(mine[0], torch.from_numpy(exact[-2::-1].copy()))
    torch.testing.assert_close(mine[1], torch.from_numpy(found[-2::-1].copy()))
    torch.testing.assert_close(mine[2].double(), torch.from_numpy(thresholds[::-1].copy()).double())
    assert average_precision(score, label) == pytest.approx(sk.average_precision_score(label, score))


def test_a_roc_curve_flatters_where_negatives_abound():
    torch.manual_seed(1)
    label = torch.cat([torch.ones(20), torch.zeros(20_000)]).long()
    score = torch.randn(20_020) + 2 * label
    assert roc_area(score, label) > 0.85
    assert average_precision(score, label) < 0.3


def test_calibration_by_hand():
    """Confidences .95 (right half the time) and .65 (always right): 2/4 |.5 - .95| + 2/4 |1 - .65|."""
    probabilities = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.65, 0.35], [0.35, 0.65]])
    label = torch.tensor([0, 1, 0, 1])
    assert calibration_error(probabilities, label, 10) == pytest.approx(0.4)
    count, confidence, right = reliability(probabilities, label, 10)
    assert count.tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 0, 2]
    assert (float(confidence[9]), float(right[9]), float(confidence[0])) == pytest.approx((0.95, 0.5, 0))


def test_calibrated_answers_have_a_small_error_and_sure_ones_their_own():
    torch.manual_seed(0)
    probabilities = torch.rand(40_000, 2).softmax(1)
    honest = torch.multinomial(probabilities, 1)[:, 0]
    assert calibration_error(probabilities, honest) < 0.01
    sure = torch.nn.functional.one_hot(probabilities.argmax(1), 2).float()
    wrong = float((probabilities.argmax(1) != honest).double().mean())
    assert calibration_error(sure, honest) == pytest.approx(wrong)


@pytest.mark.unchecked
def test_bad_input():
    score, label = drawn(8)
    with pytest.raises(ValueError, match="as many predictions as labels"):
        roc_curve(score, label[:4])
    with pytest.raises(ValueError, match="label: expected 0 and 1"):
        pr_curve(score, label + 1)
    with pytest.raises(ValueError, match=r"positives .* and negatives"):
        roc_curve(score, torch.ones(8, dtype=torch.int64))
    with pytest.raises(ValueError, match="needs positives"):
        average_precision(score, torch.zeros(8, dtype=torch.int64))
