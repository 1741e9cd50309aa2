"""What parity tests of networks share: weights copied in the order of the layers, and what counts as equal."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def copy_in_order(theirs: nn.Module, ours: nn.Module) -> None:
    """Give ours the weights and statistics of theirs, where both list their layers in the same order.

    Theirs is laid channels last, as ours is once evaluated: gradients of small batches differ by more than the tolerance
    where convolutions add up in another order.
    """
    theirs.to(memory_format=torch.channels_last)
    source = list(theirs.state_dict().values())
    target = {k: v for k, v in ours.state_dict().items() if "pixel_" not in k}
    assert [v.shape for v in source] == [v.shape for v in target.values()]
    ours.load_state_dict(dict(zip(target, source, strict=True)), strict=False)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Relative to the largest value."""
    assert float((ours - theirs).detach().abs().max()) <= tolerance * float(theirs.detach().abs().max())
