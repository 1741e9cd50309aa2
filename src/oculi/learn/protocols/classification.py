"""Classification: the share of right answers, and how far its confidence can be believed."""

from __future__ import annotations

import torch

from oculi.data.datasets import Dataset, Splits, batches
from oculi.metrics.classification import accuracy, balanced_accuracy, calibration_error, log_loss
from oculi.system import System, predict


def score(system: System, splits: Splits, split: str) -> dict[str, float]:
    """Accuracy, balanced accuracy, log loss and calibration error."""
    probabilities, label = answers(system, getattr(splits, split))
    predicted = probabilities.argmax(1)
    return {
        "accuracy": accuracy(predicted, label),
        "balanced_accuracy": balanced_accuracy(predicted, label, probabilities.shape[1]),
        "log_loss": log_loss(probabilities, label),
        "calibration_error": calibration_error(probabilities, label),
    }


def answers(system: System, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities `n x classes` and labels `n`, unlabelled images left out."""
    probabilities, labels = [], []
    for batch in batches(dataset, 128):
        if batch.label is None:
            raise ValueError("dataset: its samples have no label")
        probabilities += [answer.probabilities.cpu() for answer in predict(system, batch)]  # type: ignore[attr-defined]
        labels.append(batch.label)
    label = torch.cat(labels)
    return torch.stack(probabilities)[label >= 0], label[label >= 0]
