r"""Where the test error comes from.

    test error = irreducible + bias + variance + distribution shift + validation overfitting

    bias                      training error above the irreducible one (people's, or the best known)
    variance                  validation error above the training error
    distribution shift        error on a second validation set, drawn where the test set is, above the first one's
    validation overfitting    test error above that

Without a second validation set shift and validation overfitting cannot be told apart; their sum then counts as the latter.

Tobin: Troubleshooting Deep Neural Networks, 2019; Ng: Machine Learning Yearning, 2018.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from oculi.data.datasets import Dataset, Splits
from oculi.learn.diagnosis import Finding, found
from oculi.learn.evaluation import protocol_for
from oculi.system import System


@dataclass(frozen=True)
class Decomposition:
    """Five terms whose sum is the test error."""

    irreducible: float
    bias: float
    variance: float
    distribution_shift: float
    validation_overfitting: float

    @property
    def test_error(self) -> float:
        """Their sum."""
        return sum(asdict(self).values())

    @property
    def largest(self) -> str:
        """The term (irreducible aside) with most to gain."""
        terms = asdict(self)
        terms.pop("irreducible")
        return max(terms, key=lambda name: terms[name])

    def findings(self, least: float = 0.05) -> list[Finding]:
        """Terms of at least `least`, the largest first, with remedies in order."""
        named = {
            "underfitting": (self.bias, "bias"),
            "overfitting": (self.variance, "variance"),
            "distribution_shift": (self.distribution_shift, "distribution shift"),
            "validation_overfitting": (self.validation_overfitting, "validation overfitting"),
        }
        ordered = sorted(named.items(), key=lambda item: -item[1][0])
        return [found(cause, f"{word} is {term:.1%} of error") for cause, (term, word) in ordered if term >= least]


def decompose_error(
    train: float, validation: float, test: float, test_validation: float | None = None, irreducible: float = 0.0
) -> Decomposition:
    """From four errors in [0, 1] and the irreducible one; test_validation: on the set drawn where the test set is.

    >>> decompose_error(0.05, 0.08, 0.15, test_validation=0.13, irreducible=0.01).largest
    'distribution_shift'
    """
    errors = {"train": train, "validation": validation, "test": test, "irreducible": irreducible}
    for name, value in errors.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: expected an error in [0, 1], got {value}")
    nearer = validation if test_validation is None else test_validation
    return Decomposition(irreducible, train - irreducible, validation - train, nearer - validation, test - nearer)


def error_decomposition(
    system: System, splits: Splits, test_validation: Dataset | None = None, irreducible: float = 0.0
) -> Decomposition:
    """Of a classifier, on prepared splits (`Run.splits`)."""
    score = protocol_for(system, "classification")
    errors = {part: 1 - score(system, splits, part)["accuracy"] for part in ("train", "validation", "test")}
    nearer = None
    if test_validation is not None:
        nearer = 1 - score(system, replace(splits, validation=test_validation), "validation")["accuracy"]
    return decompose_error(
        errors["train"], errors["validation"], errors["test"], test_validation=nearer, irreducible=irreducible
    )
