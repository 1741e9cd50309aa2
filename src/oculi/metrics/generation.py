r"""Scores of generated pictures by the features of a classifier: Frechet distance, coverage of classes, memorisation.

    FID = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)

Heusel 2017, 1706.08500.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def frechet_distance(one: Float[Tensor, "n d"], two: Float[Tensor, "m d"]) -> float:
    """Squared Frechet distance between the Gaussians fitted to two sets of features, in double precision.

    >>> round(frechet_distance(torch.eye(4), torch.eye(4) + 1), 4)
    4.0
    """
    for name, features in (("one", one), ("two", two)):
        if len(features) < 2:
            raise ValueError(f"{name}: expected at least two rows of features, got {len(features)}")
    mean1, mean2 = one.double().mean(0), two.double().mean(0)
    cov1, cov2 = (torch.atleast_2d(torch.cov(x.double().T)) for x in (one, two))
    root = _root(cov1)
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp_min(0).sqrt().sum()
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross)


def _root(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def class_coverage(labels: Int[Tensor, " n"], classes: int) -> float:
    """exp(entropy) of the classes met, over their number: 1 when all are equally frequent, 1/classes after collapse.

    >>> class_coverage(torch.tensor([0, 1, 2, 3]), 4), class_coverage(torch.tensor([0, 0, 0, 0]), 4)
    (1.0, 0.25)
    """
    share = torch.bincount(labels, minlength=classes).double() / len(labels)
    return float((-(share * share.clamp_min(1e-12).log()).sum()).exp() / classes)


def memorisation(
    samples: Float[Tensor, "n d"], training: Float[Tensor, "m d"], held_out: Float[Tensor, "k d"]
) -> float:
    """Share of samples nearer to a training picture than 95 % of held-out pictures are; chance is 0.05."""
    near = torch.cdist(samples.double(), training.double()).amin(1)
    usual = torch.cdist(held_out.double(), training.double()).amin(1)
    return float((near < torch.quantile(usual, 0.05)).double().mean())
