"""Generation of digits: Frechet distance in a digit classifier's features, validity, coverage, memorisation."""

from __future__ import annotations

import torch
from torch import Tensor

from oculi.data.datasets import Dataset, Splits, batches
from oculi.learn.training import cached
from oculi.metrics.generation import class_coverage, frechet_distance, memorisation
from oculi.system import System, evaluating, predict

CONFIDENT = 0.9  # a sample counts as a digit when the classifier gives one class at least this probability


def score(system: System, splits: Splits, split: str) -> dict[str, float]:
    """As many samples as the split has pictures, against the split; reconstruction error where the system encodes.

    The Frechet distance of few pictures is biased upwards, and more so the fewer there are: figures compare only on
    the same split, where every system draws the same number from the same seed.
    """
    real, train = _pictures(getattr(splits, split)), _pictures(splits.train)
    fake = system.sample(len(real), torch.Generator().manual_seed(0)).images
    judge = cached("resnet", progress=False).system
    probabilities, features = _judged(judge, fake)
    scores = {
        "fid": frechet_distance(features, _judged(judge, real)[1]),
        "validity": float((probabilities.amax(1) >= CONFIDENT).double().mean()),
        "coverage": class_coverage(probabilities.argmax(1), probabilities.shape[1]),
        "memorisation": memorisation(fake.flatten(1), train.flatten(1), real.flatten(1)),
    }
    if system.can("predict"):
        rebuilt = [answer.images for b in batches(getattr(splits, split), 128) for answer in predict(system, b)]  # type: ignore[attr-defined]
        scores["reconstruction_mse"] = float((torch.cat(rebuilt) - real).square().mean())
    return scores


def _pictures(dataset: Dataset) -> Tensor:
    return torch.cat([b.image for b in batches(dataset, 256) if b.image is not None])


def _judged(judge: System, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Class probabilities and pooled features."""
    with evaluating(judge):
        image = judge.contract.batch(list(pictures.clamp(0, 1)))
        features = judge.features(image)[-1].mean((2, 3))  # type: ignore[operator]
        return judge.head(features).softmax(1), features  # type: ignore[operator]
