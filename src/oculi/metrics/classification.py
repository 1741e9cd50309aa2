r"""Scores of classifiers: shares of right answers, curves over thresholds, calibration, the confusion matrix.

    precision = tp / (tp + fp)      of the positive answers, those that are right
    recall    = tp / (tp + fn)      of the positives, those that were found
    F1        = 2 P R / (P + R)

A share of nothing counts as 0. Under imbalance a ROC curve looks better than it is, since the many negatives keep the
false-positive rate small; report the area under precision and recall.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def accuracy(predicted: Int[Tensor, " n"], label: Int[Tensor, " n"]) -> float:
    """Fraction of correct predictions; misleading on imbalanced data.

    >>> accuracy(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2]))
    0.75
    """
    _check(predicted, label)
    return float((predicted == label).double().mean())


def confusion_matrix(predicted: Int[Tensor, " n"], label: Int[Tensor, " n"], classes: int) -> Int[Tensor, "true said"]:
    """Counts: row = true class, column = predicted class.

    >>> confusion_matrix(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 1, 0, 1]), 2)
    tensor([[1, 1],
            [0, 2]])
    """
    _check(predicted, label)
    return torch.bincount(label * classes + predicted, minlength=classes**2).reshape(classes, classes)


def balanced_accuracy(predicted: Int[Tensor, " n"], label: Int[Tensor, " n"], classes: int) -> float:
    """Mean recall over the classes that occur.

    >>> balanced_accuracy(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]), 2)
    0.5
    """
    counts = confusion_matrix(predicted, label, classes).double()
    occurs = counts.sum(1) > 0
    return float((counts.diagonal()[occurs] / counts.sum(1)[occurs]).mean())


def log_loss(probabilities: Float[Tensor, "n classes"], label: Int[Tensor, " n"]) -> float:
    """Mean negative natural logarithm of the true class's probability.

    >>> round(log_loss(torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([0, 0])), 4)
    0.3993
    """
    chosen = probabilities.double().gather(1, label[:, None]).clamp_min(1e-12)
    return float(-chosen.log().mean())


def precision(predicted: Int[Tensor, " n"], label: Int[Tensor, " n"], positive: int = 1) -> float:
    """Exactness: the share of right answers among those that say `positive`.

    >>> precision(torch.tensor([1, 1, 1, 0]), torch.tensor([1, 0, 1, 1]))
    0.6666666666666666
    """
    _check(predicted, label)
    return _share((label == positive)[predicted == positive])


def recall(predicted: Int[Tensor, " n"], label: Int[Tensor, " n"], positive: int = 1) -> float:
    """Completeness: the share of what is `positive` that was found.

    >>> recall(torch.tensor([1, 1, 1, 0, 0]), torch.tensor([1, 0, 1, 1, 1]))
    0.5
    """
    _check(predicted, label)
    return _share((predicted == positive)[label == positive])


def f1_score(predicted: Int[Tensor, " n"], label: Int[Tensor, " n"], positive: int = 1) -> float:
    """The harmonic mean of precision and recall.

    >>> round(f1_score(torch.tensor([1, 1]), torch.tensor([1, 0])), 4)
    0.6667
    """
    p, r = precision(predicted, label, positive), recall(predicted, label, positive)
    return 2 * p * r / (p + r) if p + r else 0.0


def macro_f1(predicted: Int[Tensor, " n"], label: Int[Tensor, " n"]) -> float:
    """The mean F1 over the classes that occur among answers or labels, each counting the same however rare.

    >>> round(macro_f1(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1])), 4)
    0.4286
    """
    classes = torch.cat([predicted, label]).unique().tolist()
    return sum(f1_score(predicted, label, c) for c in classes) / len(classes)


Curve = tuple[Float[Tensor, " points"], Float[Tensor, " points"], Float[Tensor, " points"]]


def roc_curve(score: Float[Tensor, " n"], label: Int[Tensor, " n"]) -> Curve:
    """False-positive rates, true-positive rates, and the thresholds from high to low; it begins at (0, 0).

    >>> rates = roc_curve(torch.tensor([0.9, 0.8, 0.3]), torch.tensor([1, 0, 1]))
    >>> rates[0].tolist(), rates[1].tolist()
    ([0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0])
    """
    right, wrong, thresholds = _counts(score, label)
    if not wrong[-1] or not right[-1]:
        raise ValueError("label: a ROC curve needs positives (1) and negatives (0)")
    zero, infinite = right.new_zeros(1), thresholds.new_full((1,), torch.inf)
    return torch.cat([zero, wrong]) / wrong[-1], torch.cat([zero, right]) / right[-1], torch.cat([infinite, thresholds])


def roc_area(score: Float[Tensor, " n"], label: Int[Tensor, " n"]) -> float:
    """The area under the ROC curve: the chance that a positive has a higher score than a negative.

    >>> roc_area(torch.tensor([0.9, 0.8, 0.3]), torch.tensor([1, 0, 1]))
    0.5
    """
    wrong, right, _ = roc_curve(score, label)
    return float(torch.trapezoid(right, wrong))


def pr_curve(score: Float[Tensor, " n"], label: Int[Tensor, " n"]) -> Curve:
    """Precisions, recalls, and the thresholds from high to low; as many as there are different scores.

    >>> curve = pr_curve(torch.tensor([0.9, 0.8, 0.3]), torch.tensor([1, 0, 1]))
    >>> [[round(v, 4) for v in values.tolist()] for values in curve[:2]]
    [[1.0, 0.5, 0.6667], [0.5, 0.5, 1.0]]
    """
    right, wrong, thresholds = _counts(score, label)
    if not right[-1]:
        raise ValueError("label: a precision-recall curve needs positives (1)")
    return right / (right + wrong), right / right[-1], thresholds


def average_precision(score: Float[Tensor, " n"], label: Int[Tensor, " n"]) -> float:
    """The area under precision and recall, sum_k (R_k - R_{k-1}) P_k, without interpolation.

    >>> round(average_precision(torch.tensor([0.9, 0.8, 0.3]), torch.tensor([1, 0, 1])), 4)
    0.8333
    """
    exact, found, _ = pr_curve(score, label)
    return float((exact * found.diff(prepend=found.new_zeros(1))).sum())


def _counts(score: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """True and false positives at each different score, taken as the threshold, from high to low."""
    _check(score, label)
    if not bool(((label == 0) | (label == 1)).all()):
        raise ValueError(f"label: expected 0 and 1, got {label.unique().tolist()}")
    ordered, order = score.sort(descending=True, stable=True)
    last = torch.cat([ordered.diff() != 0, torch.ones(1, dtype=torch.bool, device=score.device)])
    right = label[order].double().cumsum(0)[last]
    wrong = (1 - label[order]).double().cumsum(0)[last]
    return right, wrong, ordered[last]


def reliability(
    probabilities: Float[Tensor, "n classes"], label: Int[Tensor, " n"], bins: int = 15
) -> tuple[Int[Tensor, " bins"], Float[Tensor, " bins"], Float[Tensor, " bins"]]:
    """The reliability diagram: answers, mean confidence and share of right ones in equal bins of confidence (0 where
    there are none).

    >>> reliability(torch.tensor([[0.8, 0.2], [0.7, 0.3]]), torch.tensor([0, 1]), 2)[0].tolist()
    [0, 2]
    """
    confidence, predicted = probabilities.double().max(1)
    _check(predicted, label)
    which = (confidence * bins).long().clamp_max(bins - 1)
    sums = torch.zeros(3, bins, dtype=torch.float64, device=probabilities.device)
    sums.index_add_(1, which, torch.stack([torch.ones_like(confidence), confidence, (predicted == label).double()]))
    count, total, right = sums
    return count.long(), total / count.clamp_min(1), right / count.clamp_min(1)


def calibration_error(probabilities: Float[Tensor, "n classes"], label: Int[Tensor, " n"], bins: int = 15) -> float:
    """Expected calibration error: sum_b n_b/n |accuracy_b - confidence_b| (Guo 2017, 1706.04599).

    >>> round(calibration_error(torch.tensor([[0.8, 0.2], [0.8, 0.2]]), torch.tensor([0, 1])), 4)
    0.3
    """
    count, confidence, right = reliability(probabilities, label, bins)
    return float((count / count.sum() * (confidence - right).abs()).sum())


def _share(values: Tensor) -> float:
    return float(values.double().mean()) if len(values) else 0.0


def _check(predicted: Tensor, label: Tensor) -> None:
    if predicted.shape != label.shape or predicted.numel() == 0:
        raise ValueError(f"expected as many predictions as labels, got {tuple(predicted.shape)}, {tuple(label.shape)}")
