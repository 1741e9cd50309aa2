"""Convolution blocks that several networks are made of."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class SameConv2d(nn.Conv2d):
    """Padded as TensorFlow does: the map gets ceil(side / stride), and the odd line of zeros stands right and below."""

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        around: list[int] = []
        for side, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            zeros = max(0, (-(-side // stride) - 1) * stride + kernel - side)
            around += [zeros // 2, zeros - zeros // 2]
        return super().forward(F.pad(x, around))


def conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, eps: float = 1e-5, same: bool = False
) -> nn.Sequential:
    """Convolution without bias and batch norm; padding keeps the size at stride 1. same: padded as SameConv2d."""
    if same and stride > 1:
        conv: nn.Conv2d = SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    else:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps))


def round_channels(channels: float, multiple: int = 8) -> int:
    """The nearest multiple of 8 (what hardware likes), never more than a tenth below; as all MobileNets are published.

    >>> [round_channels(c) for c in (24 * 1.4, 16 * 0.35, 32 * 1.4, 91)]
    [32, 8, 48, 88]
    """
    if channels <= 0:
        raise ValueError(f"channels: expected a positive number, got {channels}")
    nearest = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return nearest + multiple if nearest < 0.9 * channels else nearest


def conv_relu(
    inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int | None = None, norm: bool = False
) -> nn.Sequential:
    """Convolution with bias, batch norm where asked for, ReLU in place; padding keeps the size at stride 1 unless given."""
    around = kernel // 2 if padding is None else padding
    conv = nn.Conv2d(inputs, outputs, kernel, stride, around)
    between = [nn.BatchNorm2d(outputs)] if norm else []
    return nn.Sequential(conv, *between, nn.ReLU(inplace=True))


def average_to(x: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c side side"]:
    """Averages over windows that make the map `side` x `side`; without work where it is so already."""
    return x if x.shape[-2:] == (side, side) else F.adaptive_avg_pool2d(x, side)


def kaiming_init(network: nn.Module) -> None:
    """He's initialisation of every convolution, by fan-out, as the published ResNets were trained.

    The fan-out is that of one group; of all groups together it would make depthwise filters far too small.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels // module.groups * module.weight[0, 0].numel()
            nn.init.normal_(module.weight, std=math.sqrt(2.0) / math.sqrt(fan_out))


def fan_in_init(network: nn.Module) -> None:
    """He's initialisation of convolutions and linear layers by fan-in, biases zero: without batch norm, what comes out of
    every layer is then as large as what went in, however the widths change."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
