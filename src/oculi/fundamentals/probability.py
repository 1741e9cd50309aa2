r"""The rules by which probabilities combine: OR adds, AND multiplies; and logarithms, which turn the second into the first.

P(A or B)  = P(A) + P(B) - P(A and B)       nothing to take off where A and B exclude each other
P(A and B) = P(B | A) P(A)                  = P(A) P(B) where they are independent
log_b(x y) = log_b x + log_b y,  log_b x^k = k log_b x,  log_b x = ln x / ln b
"""

from __future__ import annotations

import math
from collections.abc import Set
from typing import Any

Event = Set[Any]


def either_exclusive(*chances: float) -> float:
    """The chance that one of several events happens which exclude each other.

    A three or a four with a die:

    >>> round(either_exclusive(1 / 6, 1 / 6), 4)
    0.3333
    """
    total = sum(_chance(p) for p in chances)
    if total > 1 + 1e-12:
        raise ValueError(f"chances: expected a sum of at most 1 for events that exclude each other, got {total:.4g}")
    return total


def either(a: float, b: float, both: float) -> float:
    """The chance of a or b or both.

    Of 20 coins 12 are Roman, 6 of them silver, and 8 are Greek, 3 of them silver; one is silver or Roman:

    >>> round(either(9 / 20, 12 / 20, 6 / 20), 4)
    0.75
    """
    if _chance(both) > min(_chance(a), _chance(b)) + 1e-12 or a + b - both > 1 + 1e-12:
        raise ValueError(f"both: expected at most {min(a, b):.4g} and no sum above 1, got {both:.4g}")
    return a + b - both


def both_independent(*chances: float) -> float:
    """The chance that several events all happen of which none tells about another.

    A woman (one half) with brown eyes (eight in ten):

    >>> both_independent(0.5, 0.8)
    0.4
    """
    return math.prod(_chance(p) for p in chances)


def both(a: float, b_given_a: float) -> float:
    """The chance of a and b, P(B | A) P(A).

    Two aces in a row from 52 cards:

    >>> round(both(4 / 52, 3 / 51), 5)
    0.00452
    """
    return _chance(b_given_a) * _chance(a)


def chance(event: Event, outcomes: Event) -> float:
    """The share of equally likely outcomes that belong to the event.

    >>> chance({3, 4}, {1, 2, 3, 4, 5, 6}) == either_exclusive(1 / 6, 1 / 6)
    True
    """
    if not outcomes or not event <= outcomes:
        raise ValueError("event: expected a part of the outcomes, of which there is at least one")
    return len(event) / len(outcomes)


def logarithm(x: float, base: float) -> float:
    """The power to which the base must be raised to give x, by change of base.

    >>> round(logarithm(100, 10), 12), round(logarithm(8 * 4, 2), 12), round(logarithm(3**5, 3), 12)
    (2.0, 5.0, 5.0)
    """
    if x <= 0 or base <= 0 or base == 1:
        raise ValueError(f"x, base: expected positive numbers, the base not 1, got {x} and {base}")
    return math.log(x) / math.log(base)


def _chance(p: float) -> float:
    if not 0 <= p <= 1:
        raise ValueError(f"chances: expected numbers from 0 to 1, got {p}")
    return p
