r"""Episodes: N classes, K labelled examples of each, and queries that are none of them.

    sampler = EpisodeSampler(labels, ways=5, shots=1, queries=15)
    support, queries = sampler.draw(generator)          # indices: 5 x 1 and 5 x 15, row = class

    open_data("episodes", source="digits", unseen=4)    # classes of `test` and `validation` never occur in `train`

A way to learn to learn: training pictures come from the seen classes only, evaluation asks about episodes of the unseen
ones. Labels keep the numbers of the source, so that the names of all classes fit.

Vinyals et al.: Matching Networks for One Shot Learning, 2016, arXiv:1606.04080.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from oculi.data.datasets import Dataset, Splits
from oculi.types import Sample


class EpisodeSampler:
    """Draws episodes from the classes that have at least `shots + queries` samples; labels below 0 are left out."""

    def __init__(self, labels: Int[Tensor, " n"], ways: int = 5, shots: int = 1, queries: int = 15):
        for name, value in (("ways", ways), ("shots", shots), ("queries", queries)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.ways, self.shots, self.queries = ways, shots, queries
        places = {int(c): (labels == c).nonzero()[:, 0] for c in labels.unique() if c >= 0}
        self.places = {c: where for c, where in places.items() if len(where) >= shots + queries}
        if len(self.places) < ways:
            raise ValueError(
                f"ways: expected at most {len(self.places)}, the classes with {shots + queries} samples, got {ways}"
            )

    def draw(self, generator: torch.Generator) -> tuple[Int[Tensor, "ways shots"], Int[Tensor, "ways queries"]]:
        """Indices of the support and of the queries of one episode, disjoint, one row per class."""
        classes = list(self.places.values())
        chosen = [classes[i] for i in torch.randperm(len(classes), generator=generator)[: self.ways].tolist()]
        picked = torch.stack(
            [where[torch.randperm(len(where), generator=generator)[: self.shots + self.queries]] for where in chosen]
        )
        return picked[:, : self.shots], picked[:, self.shots :]


def load(source: str = "digits", unseen: int = 4, options: dict[str, Any] | None = None, seed: int = 0) -> Splits:
    """A classification source, opened with `options` and split by class: `unseen` classes are kept from training.

    Which ones, `seed` decides. Test and validation hold the unseen classes alone.
    """
    from oculi.data.sources import open_data

    return split_by_class(open_data(source, **(options or {})), unseen, seed)


def split_by_class(splits: Splits, unseen: int, seed: int = 0) -> Splits:
    """Seen classes to train on, unseen ones to validate and test on; nobody is in two splits."""
    names = splits.class_names or []
    if not 1 <= unseen < len(names):
        raise ValueError(f"unseen: expected 1 to {len(names) - 1} of the {len(names)} classes, got {unseen}")
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    kept = set(order[:unseen])
    return replace(
        splits,
        train=[s for s in _all(splits.train) if s.label not in kept],
        validation=[s for s in _all(splits.validation) if s.label in kept],
        test=[s for s in _all(splits.test) if s.label in kept],
    )


def _all(dataset: Dataset) -> list[Sample]:
    return [dataset[index] for index in range(len(dataset))]
