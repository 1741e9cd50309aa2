r"""Counting the work: multiply-adds of a network for one picture (FLOPs), and what a machine does in a second (FLOPS).

One multiply-add counts once, as the papers do (ResNet-50: 4.1 billion); it is two floating point operations. Only
convolutions and matrix products count, as is usual: the rest is a hundredth of them.

    convolution     k² C_in C_out H_out W_out / groups      (transposed: H_in W_in)
    matrix product  n k m
    attention       n m (d + e) per head: queries n, keys m, widths d of keys and e of values
    recurrent net   one product with each weight matrix per step
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from oculi.ops.convolution_arithmetic import conv_multiply_adds


def named_arguments(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """The arguments of a torch operation under their names, with its defaults."""
    listed = function._schema.arguments
    defaults = {argument.name: argument.default_value for argument in listed if argument.has_default_value()}
    return {**defaults, **dict(zip((argument.name for argument in listed), args)), **(kwargs or {})}


def operation_name(function: Any) -> str:
    """`convolution` for aten.convolution.default."""
    return function._schema.name.partition("::")[2]


def multiply_adds(name: str, given: dict[str, Any], output: Any) -> int:
    """Multiply-adds of one torch operation; 0 for what has no product of matrices in it."""
    rule = _RULES.get(name)
    return 0 if rule is None else rule(given, output)


def flops_counter(network: nn.Module, *inputs: Any) -> int:
    """Multiply-adds of `network(*inputs)`, all pictures of the batch together.

    >>> flops_counter(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 10, 20))
    43200
    """
    with torch.no_grad(), _Count() as counted:
        network(*inputs)
    return counted.total


def operations_per_second(size: int = 512, seconds: float = 0.2) -> float:
    """Floating point operations (two per multiply-add) that this machine does in a second on a matrix product."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    a @ b  # the first one warms up
    done, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds or not done:
        a @ b
        done += 1
    return 2 * done * size**3 / passed


class _Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.total += multiply_adds(operation_name(func), named_arguments(func, args, kwargs), output)
        return output


def _convolution(given: dict[str, Any], output: Tensor) -> int:
    weight, image, groups = given["weight"], given["input"], given["groups"]
    inputs, outputs = image.shape[1], output.shape[1]
    places = image.shape[2:] if given["transposed"] else output.shape[2:]
    return image.shape[0] * conv_multiply_adds(weight.shape[2:], inputs, outputs, places, groups)


def _product(left: str, right: str) -> Callable[[dict[str, Any], Any], int]:
    return lambda given, output: given[left].numel() * given[right].shape[-1]


def _attention(given: dict[str, Any], output: Any) -> int:
    query, key, value = given["query"], given["key"], given["value"]
    return math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _recurrent(given: dict[str, Any], output: Any) -> int:
    steps = math.prod(given["input"].shape[:-1])
    return steps * sum(given[name].numel() for name in ("weight0", "weight1"))


_RULES: dict[str, Callable[[dict[str, Any], Any], int]] = {
    "convolution": _convolution,
    "mm": _product("self", "mat2"),
    "bmm": _product("self", "mat2"),
    "addmm": _product("mat1", "mat2"),
    "baddbmm": _product("batch1", "batch2"),
    "addmv": lambda given, output: given["mat"].numel(),
    "mv": lambda given, output: given["self"].numel(),
    "dot": lambda given, output: given["self"].numel(),
    "mkldnn_rnn_layer": _recurrent,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
}
