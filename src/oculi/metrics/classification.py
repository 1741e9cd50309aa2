r"""Scores of classifiers: accuracy, balanced accuracy, log loss, calibration, confusion matrix."""

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


def calibration_error(probabilities: Float[Tensor, "n classes"], label: Int[Tensor, " n"], bins: int = 15) -> float:
    """Expected calibration error: |confidence - accuracy| over equal bins of confidence (Guo 2017, 1706.04599).

    >>> round(calibration_error(torch.tensor([[0.8, 0.2], [0.8, 0.2]]), torch.tensor([0, 1])), 4)
    0.3
    """
    confidence, predicted = probabilities.double().max(1)
    which = (confidence * bins).long().clamp_max(bins - 1)
    right = (predicted == label).double()
    error = 0.0
    for index in range(bins):
        inside = which == index
        if bool(inside.any()):
            error += float(inside.double().mean() * (confidence[inside].mean() - right[inside].mean()).abs())
    return error


def _check(predicted: Tensor, label: Tensor) -> None:
    if predicted.shape != label.shape or predicted.numel() == 0:
        raise ValueError(f"expected as many predictions as labels, got {tuple(predicted.shape)}, {tuple(label.shape)}")
