r"""Some classes of a source, numbered anew, with few samples of each to train on: what transfer is tried on.

    open_data("class_split", source="world", options={...}, first=24, last=32, per_class=50)

Training keeps the first `per_class` samples of each class (0 = all); validation and test keep all of theirs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from oculi.data.datasets import Dataset, Splits
from oculi.types import Sample


def load(
    source: str = "digits", first: int = 0, last: int = 5, per_class: int = 0, options: dict[str, Any] | None = None
) -> Splits:
    """A classification source, opened with `options`, restricted to the classes `first` to `last` - 1."""
    from oculi.data.sources import open_data

    splits = open_data(source, **(options or {}))
    names = splits.class_names or []
    if not 0 <= first < last <= len(names):
        raise ValueError(f"first, last: expected a range of the {len(names)} classes, got {first} and {last}")
    if per_class < 0:
        raise ValueError(f"per_class: expected 0 or more, got {per_class}")
    train = _few(_of(splits.train, first, last), per_class)
    validation, test = _of(splits.validation, first, last), _of(splits.test, first, last)
    return Splits(train, validation, test, names[first:last])


def _of(dataset: Dataset, first: int, last: int) -> list[Sample]:
    samples = [dataset[index] for index in range(len(dataset))]
    return [replace(s, label=s.label - first) for s in samples if s.label is not None and first <= s.label < last]


def _few(samples: list[Sample], per_class: int) -> list[Sample]:
    if not per_class:
        return samples
    seen: Counter[int | None] = Counter()
    kept = []
    for sample in samples:
        seen[sample.label] += 1
        if seen[sample.label] <= per_class:
            kept.append(sample)
    return kept
