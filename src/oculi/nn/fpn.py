r"""Feature pyramid: a neck that gives every scale the meaning of the coarsest and the detail of its own.

    M_l = lateral_1x1(C_l) + upsampled(M_{l+1})        nearest neighbour, addition, no concatenation
    P_l = smooth_3x3(M_l)                              one map per level, all with the same number of channels

Lin et al.: Feature Pyramid Networks for Object Detection, 2016, arXiv:1612.03144.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class FeaturePyramid(nn.Module):
    """Maps of `channels` channels from maps of `inputs`, finest first; `extra` adds a max-pooled coarser level."""

    def __init__(self, inputs: list[int], channels: int, extra: bool = False):
        super().__init__()
        if not inputs:
            raise ValueError("inputs: expected the channels of at least one map, got none")
        self.lateral = nn.ModuleList(nn.Conv2d(n, channels, 1) for n in inputs)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in inputs)
        self.extra = extra

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        merged = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in range(len(merged) - 2, -1, -1):
            merged[i] = merged[i] + F.interpolate(merged[i + 1], size=merged[i].shape[-2:], mode="nearest")
        out = [smooth(x) for smooth, x in zip(self.smooth, merged, strict=True)]
        return [*out, F.max_pool2d(out[-1], 1, 2)] if self.extra else out
