r"""The arithmetic of layers: sizes, receptive fields, parameters, multiply-adds. Integers only, along one axis.

convolution      floor((W + 2 P - d (F - 1) - 1) / S) + 1
transposed       (W - 1) S - 2 P + d (F - 1) + O + 1
pooling          floor((W - F) / S) + 1
same padding     P = d (F - 1) / 2                               F odd, stride 1
receptive field  R_k = 1 + sum_j d_j (F_j - 1) prod_{i<j} S_i
dense net        sum n_i n_{i+1} weights and one bias per neuron that is no input
convolution      k² C_in C_out H_out W_out / groups multiply-adds

W side of the input, P zeros on each side, F side of the filter, S stride, d dilation, O extra rows at the end
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import prod


def conv_output_size(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """The side of a convolution's output; its depth is the number of filters.

    >>> conv_output_size(32, 5), conv_output_size(14, 5), conv_output_size(224, 7, stride=2, padding=3)
    (28, 10, 112)
    """
    reach = _reach(kernel, stride, dilation)
    if size + 2 * padding < reach:
        raise ValueError(f"size: expected at least {reach - 2 * padding} for a filter of reach {reach}, got {size}")
    return (size + 2 * padding - reach) // stride + 1


def transposed_output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, output_padding: int = 0
) -> int:
    """The side of a transposed convolution's output: the input side that a convolution would bring to `size`."""
    return (size - 1) * stride - 2 * padding + _reach(kernel, stride, dilation) + output_padding


def pool_output_size(size: int, kernel: int, stride: int | None = None) -> int:
    """The side after pooling without padding, by default in windows that do not overlap; the depth stays.

    >>> pool_output_size(28, 2), pool_output_size(10, 2)
    (14, 5)
    """
    return conv_output_size(size, kernel, kernel if stride is None else stride)


def same_padding_rule(kernel: int, dilation: int = 1) -> int:
    """The zeros on each side that keep the side at stride 1. Raises ValueError where an even filter has no such number.

    >>> same_padding_rule(3), same_padding_rule(5)
    (1, 2)
    """
    reach = _reach(kernel, 1, dilation)
    if reach % 2 == 0:
        raise ValueError(f"kernel: expected an odd side, got {kernel} with dilation {dilation}")
    return reach // 2


def receptive_field(layers: Iterable[tuple[int, ...]]) -> int:
    """The side of the picture that one pixel after `layers` sees; each layer is (filter, stride) or (.., dilation).

    >>> receptive_field([(3, 1), (3, 1)]), receptive_field([(5, 1), (2, 2), (5, 1), (2, 2)])
    (5, 16)
    """
    field, jump = 1, 1
    for kernel, stride, *rest in layers:
        field += (_reach(kernel, stride, rest[0] if rest else 1) - 1) * jump
        jump *= stride
    return field


def parameter_count(widths: Sequence[int], bias: bool = True) -> int:
    """Weights and biases of a dense net with these widths, the inputs first.

    >>> parameter_count([3, 4, 4, 1])  # 12 + 16 + 4 weights, 9 biases
    41
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths: expected at least two positive numbers, got {list(widths)}")
    return sum(a * b for a, b in pairwise(widths)) + bias * sum(widths[1:])


def conv_multiply_adds(
    kernel: Sequence[int], inputs: int, outputs: int, positions: Sequence[int], groups: int = 1
) -> int:
    """Multiply-adds of a convolution for one picture; `positions` is the output's size (transposed: the input's).

    >>> conv_multiply_adds((3, 3), 64, 128, (1, 1))
    73728
    >>> conv_multiply_adds((3, 3), 64, 64, (1, 1), groups=64) + conv_multiply_adds((1, 1), 64, 128, (1, 1))
    8768
    """
    if inputs % groups or outputs % groups:
        raise ValueError(f"groups: expected a divisor of {inputs} and {outputs}, got {groups}")
    return prod(kernel) * inputs * outputs * prod(positions) // groups


def _reach(kernel: int, stride: int, dilation: int) -> int:
    """Pixels from a filter's first to its last tap."""
    for name, value in (("kernel", kernel), ("stride", stride), ("dilation", dilation)):
        if value < 1:
            raise ValueError(f"{name}: expected a positive number, got {value}")
    return dilation * (kernel - 1) + 1
