r"""Atrous convolution: a finer map from the same weights, by filters with holes instead of strides.

    y[i] = sum_k x[i + r k] w[k]          rate r: the filter's taps are r places apart

Where a stage's stride of 2 is taken away, everything after the convolution that had it gets twice the rate. Each weight
then meets just what it met before, and at every second place the map is what the strided network gives.

Chen, Papandreou, Kokkinos, Murphy, Yuille: DeepLab, 2016, arXiv:1606.00915.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn


def make_atrous(stages: Iterable[nn.Module], strides: Sequence[int], output_stride: int) -> list[int]:
    """Change the convolutions of `stages`, whose maps have `strides`, so that no map is coarser than `output_stride`;
    the new strides. In each stage the first convolution of a path has the stride."""
    if output_stride not in strides:
        raise ValueError(f"output_stride: expected one of {', '.join(map(str, strides))}, got {output_stride}")
    before = 1
    for stage, stride in zip(stages, strides, strict=True):
        rate = max(1, stride // output_stride)
        for module in stage.modules():
            if isinstance(module, nn.Conv2d):
                strided = module.stride != (1, 1)
                if strided and rate > before:
                    module.stride = (1, 1)
                _spread(module, before if strided else rate)
        before = rate
    return [min(stride, output_stride) for stride in strides]


def _spread(convolution: nn.Conv2d, rate: int) -> None:
    height, width = convolution.kernel_size
    convolution.dilation = (rate, rate)
    convolution.padding = (height // 2 * rate, width // 2 * rate)
