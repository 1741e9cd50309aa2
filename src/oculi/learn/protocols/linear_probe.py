r"""Linear probe: how much a straight line can read from frozen features, beside features that have learned nothing.

A multinomial logistic regression (standardised features, L2, sklearn's C = 1) is fitted on training features and scored
on the split's. The random baseline is the same architecture freshly initialised from the same configuration, its batch
norms given the training data's statistics. Two settings:

    full_*                 every label of the training split (Chen 2020, the linear evaluation protocol)
    probe_, random_, gain  SHOTS labels per class, mean over DRAWS draws, where a representation has to do the work
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from oculi.data.datasets import Dataset, Splits, batches
from oculi.system import System, predict

SHOTS, DRAWS = 2, 20


def score(system: System, splits: Splits, split: str) -> dict[str, float]:
    """probe_accuracy, random_accuracy and their gain with few labels; the same with all of them under `full_`."""
    random = fresh(system, splits)
    figures: dict[str, float] = {}
    for name, judged in (("probe", system), ("random", random)):
        known, label = features(judged, splits.train)
        asked, truth = features(judged, getattr(splits, split))
        draws = [probe(known[i], label[i], asked, truth) for i in few(label, SHOTS, DRAWS)]
        figures[f"{name}_accuracy"] = float(np.mean(draws))
        figures[f"full_{name}_accuracy"] = probe(known, label, asked, truth)
    figures["gain"] = figures["probe_accuracy"] - figures["random_accuracy"]
    figures["full_gain"] = figures["full_probe_accuracy"] - figures["full_random_accuracy"]
    figures["labels_per_class"] = SHOTS
    return figures


def probe(known: np.ndarray, label: np.ndarray, asked: np.ndarray, truth: np.ndarray) -> float:
    """Accuracy on (asked, truth) of a logistic regression fitted to (known, label)."""
    from sklearn.linear_model import LogisticRegression

    mean, std = known.mean(0), known.std(0) + 1e-6
    model = LogisticRegression(max_iter=2000).fit((known - mean) / std, label)
    return float(model.score((asked - mean) / std, truth))


def few(label: np.ndarray, shots: int, draws: int, seed: int = 0) -> list[np.ndarray]:
    """For each draw, the indices of `shots` samples of each class."""
    generator = np.random.default_rng(seed)
    places = [np.flatnonzero(label == value) for value in np.unique(label)]
    if min(map(len, places)) < shots:
        raise ValueError(f"dataset: expected at least {shots} samples of each class to probe with")
    return [np.concatenate([generator.choice(place, shots, replace=False) for place in places]) for _ in range(draws)]


def features(system: System, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Vectors `n x d` and labels `n`, unlabelled images left out."""
    vectors, labels = [], []
    for batch in batches(dataset, 128):
        if batch.label is None:
            raise ValueError("dataset: its samples have no label to probe for")
        vectors += [answer.vector.cpu() for answer in predict(system, batch)]  # type: ignore[attr-defined]
        labels.append(batch.label)
    label = torch.cat(labels)
    return torch.stack(vectors)[label >= 0].double().numpy(), label[label >= 0].numpy()


def fresh(system: System, splits: Splits, seed: int = 0) -> System:
    """The same architecture with random weights, seeing the same normalisation and settled batch norms."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    random = type(system)(**system.config).to(system.device)
    random.pixel_mean.copy_(system.pixel_mean)
    random.pixel_std.copy_(system.pixel_std)
    for module in random.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # a plain average over the batches
    random.train()
    with torch.no_grad():
        for batch in batches(splits.train, 128):
            random.predict(batch.to(random.device))
    torch.set_rng_state(state)
    return random.eval()
