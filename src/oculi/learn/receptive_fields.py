r"""Where the picture is in a tensor: receptive field and stride of everything a network computes, one operation at a time.

Each dimension of a tensor is made of positions of the picture (rows, columns, or both where a map was flattened) and of
channels. What the element at index 0 sees is an interval of pixels [low, high] along each axis, at index i it is moved
by i steps. An operation changes that:

    filter, pooling     low - P step ... high + (d (F - 1) - P) step,  step S        (R_k of ops.convolution_arithmetic)
    transposed          (ceil(F / m) - 1) m d / S more steps, m = S / gcd(S, d);     step / S
    branches            the smallest interval that holds all of them; concentric ones: the largest
    sum over positions  (n - 1) step more; the whole picture where they reach over it (linear after flatten, attention)

A view or a permutation only renames positions, so that windows of tokens stay windows. For attention inside windows the
interval is an upper bound of what a token in the middle sees.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

NO_AXIS = -1  # channels


@dataclass(frozen=True)
class Run:
    """`count` positions along an axis of the picture (0 rows, 1 columns, or NO_AXIS), `step` pixels apart."""

    axis: int
    count: int
    step: Fraction = Fraction(0)


Dimension = tuple[Run, ...]


@dataclass(frozen=True)
class Field:
    """What each dimension of a tensor enumerates, and the pixels that its first element sees."""

    size: tuple[int, int]
    dims: tuple[Dimension, ...]
    low: tuple[Fraction, Fraction] = (Fraction(0), Fraction(0))
    high: tuple[Fraction, Fraction] = (Fraction(0), Fraction(0))
    whole: tuple[bool, bool] = (False, False)

    @staticmethod
    def of_picture(shape: Sequence[int]) -> Field:
        """The picture itself, `batch x channels x height x width`."""
        height, width = int(shape[-2]), int(shape[-1])
        front: tuple[Dimension, ...] = tuple((Run(NO_AXIS, int(n)),) for n in shape[:-2])
        one = Fraction(1)
        return Field((height, width), (*front, (Run(0, height, one),), (Run(1, width, one),)))

    @property
    def extent(self) -> tuple[float, float]:
        """Rows and columns of the picture that one element sees; infinite: all."""
        sides = [math.inf if w else math.ceil(b - a + 1) for a, b, w in zip(self.low, self.high, self.whole)]
        return sides[0], sides[1]

    @property
    def stride(self) -> tuple[float, float] | None:
        """Pixels between neighbours along rows and columns; None where the tensor has no places any more."""
        found = []
        for axis in (0, 1):
            steps = [run.step for dim in self.dims for run in dim if run.axis == axis]
            if not steps:
                return None
            found.append(int(min(steps)) if min(steps).denominator == 1 else float(min(steps)))
        return found[0], found[1]

    def moved(self, axis: int, low: Fraction, high: Fraction) -> Field:
        """The interval's ends moved along one axis."""
        lows, highs = list(self.low), list(self.high)
        lows[axis], highs[axis] = lows[axis] + low, highs[axis] + high
        return replace(self, low=(lows[0], lows[1]), high=(highs[0], highs[1]))

    def mixed(self, dims: Iterable[int]) -> Field:
        """Every element sees what all positions along these dimensions saw."""
        field = self
        for run in [run for dim in dims for run in self.dims[dim] if run.axis != NO_AXIS and run.count > 1]:
            reach, axis = (run.count - 1) * run.step, run.axis
            if field.high[axis] - field.low[axis] + 1 + reach >= self.size[axis]:
                field = replace(field, whole=(field.whole[0] or axis == 0, field.whole[1] or axis == 1))
            else:
                field = field.moved(axis, -reach / 2, reach / 2)
        return field


def union(fields: Sequence[Field], dims: tuple[Dimension, ...]) -> Field:
    """What sees all that `fields` see."""
    lows = [min(f.low[k] for f in fields) for k in (0, 1)]
    highs = [max(f.high[k] for f in fields) for k in (0, 1)]
    wholes = [any(f.whole[k] for f in fields) for k in (0, 1)]
    return Field(fields[0].size, dims, (lows[0], lows[1]), (highs[0], highs[1]), (wholes[0], wholes[1]))
