r"""Real handwritten digits without a download: the 1,797 8x8 pictures that scikit-learn ships.

Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (the test part).
"""

from __future__ import annotations

import torch

from oculi.data.datasets import Splits
from oculi.types import UNLABELLED, Sample

_VALIDATION, _TEST = 200, 500


def load(labelled: int = 0, seed: int = 0) -> Splits:
    """1,097 to train on, 200 to validate, 500 to test, split at random by `seed`.

    labelled: when positive, only so many training digits keep their label (as many of each class); the rest have -1.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images / 16.0).float()[:, None]
    labels = bunch.target.tolist()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    samples = [Sample(image=images[i], label=labels[i], id=f"digit-{i}") for i in order]
    train = samples[_VALIDATION + _TEST :]
    if labelled:
        train = hide_labels(train, labelled, classes=10)
    return Splits(train, samples[_TEST : _TEST + _VALIDATION], samples[:_TEST], [str(d) for d in range(10)])


def hide_labels(samples: list[Sample], labelled: int, classes: int) -> list[Sample]:
    """Keep the labels of the first `labelled / classes` samples of each class; the others become unlabelled."""
    if labelled % classes:
        raise ValueError(f"labelled: expected a multiple of {classes} classes, got {labelled}")
    left = dict.fromkeys(range(classes), labelled // classes)
    kept = []
    for sample in samples:
        assert sample.label is not None
        known = left[sample.label] > 0
        left[sample.label] -= 1
        kept.append(Sample(image=sample.image, label=sample.label if known else UNLABELLED, id=sample.id))
    return kept
