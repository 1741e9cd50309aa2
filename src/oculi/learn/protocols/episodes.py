r"""Few-shot episodes: N ways, K shots from classes of the split (unseen in training where the data keep them apart).

Each of EPISODES episodes gives the system its support through `fit` and asks 15 queries per class. WAYS is 5, or as
many classes as there are. The system is left as it was. `confidence` is the half-width of the 95 %
interval over episodes.
"""

from __future__ import annotations

import copy

import numpy as np
import torch

from oculi.data.datasets import Splits
from oculi.data.episodes import EpisodeSampler
from oculi.system import System, predict
from oculi.types import Batch

WAYS, QUERIES, EPISODES = 5, 15, 200


def score(system: System, splits: Splits, split: str) -> dict[str, float]:
    """Accuracy at 1 and 5 shots, its confidence interval, and what guessing would give."""
    dataset = getattr(splits, split)
    pool = Batch.of([dataset[index] for index in range(len(dataset))])
    if pool.label is None:
        raise ValueError("dataset: its samples have no label to make episodes of")
    ways = min(WAYS, len(pool.label.unique()))
    figures: dict[str, float] = {"ways": ways, "chance": 1 / ways}
    for shots in (1, 5):
        each = episode_accuracies(system, pool, EpisodeSampler(pool.label, ways, shots, QUERIES), EPISODES)
        figures[f"accuracy_{shots}_shot"] = float(each.mean())
        figures[f"confidence_{shots}_shot"] = float(1.96 * each.std(ddof=1) / len(each) ** 0.5)
    return figures


def episode_accuracies(
    system: System, pool: Batch, sampler: EpisodeSampler, episodes: int, seed: int = 0
) -> np.ndarray:
    """Accuracy of each episode, the system fitted to a fresh support every time."""
    if not type(system).can("fit"):
        raise ValueError(f"system: {type(system).__name__} has no `fit` to take the support of an episode")
    assert pool.image is not None
    assert pool.label is not None
    learner = copy.deepcopy(system)
    generator = torch.Generator().manual_seed(seed)
    accuracies = []
    for _ in range(episodes):
        support, queries = (indices.flatten() for indices in sampler.draw(generator))
        learner.fit([Batch(image=pool.image[support], label=pool.label[support])])
        answers = predict(learner, Batch(image=pool.image[queries]))
        said = torch.tensor([answer.label for answer in answers])  # type: ignore[attr-defined]
        accuracies.append(float((said == pool.label[queries]).double().mean()))
    return np.array(accuracies)
