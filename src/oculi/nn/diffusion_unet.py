"""A small U-Net that predicts noise: group norm, the timestep added in every block, attention at the coarse level."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.nn.embeddings import timestep_embedding


class TimedBlock(nn.Module):
    """x + conv(act(norm(conv(act(norm(x))) + time)))."""

    def __init__(self, inputs: int, outputs: int, time: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, inputs), nn.GroupNorm(4, outputs)
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(hidden)))


class DiffusionUNet(nn.Module):
    """Two levels; `width` (a multiple of 4) channels at the fine one, twice that at the coarse one."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        if width < 8 or width % 4:
            raise ValueError(f"width: got {width}, expected a multiple of 4 from 8 on")
        time = 4 * width
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.down = TimedBlock(width, width, time)
        self.shrink = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.middle1, self.middle2 = (TimedBlock(2 * width, 2 * width, time) for _ in range(2))
        self.norm = nn.GroupNorm(4, 2 * width)
        self.attention = nn.MultiheadAttention(2 * width, 2, batch_first=True)
        self.grow = nn.Conv2d(2 * width, width, 3, padding=1)
        self.up = TimedBlock(2 * width, width, time)
        self.leave = nn.Sequential(nn.GroupNorm(4, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.time(timestep_embedding(t, self.width))
        fine = self.down(self.enter(x), time)
        coarse = self.middle1(self.shrink(fine), time)
        tokens = self.norm(coarse).flatten(2).transpose(1, 2)
        attended = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        coarse = self.middle2(coarse + attended.transpose(1, 2).reshape(coarse.shape), time)
        raised = self.grow(F.interpolate(coarse, size=fine.shape[-2:], mode="nearest"))
        return self.leave(self.up(torch.cat([raised, fine], 1), time))
