r"""Stochastic depth: each sample skips a residual branch at random, deep branches more often than early ones.

    training     z = x + b F(x) / (1 - q),   b = 0 with probability q (the drop rate), for each sample apart
    evaluation   z = x + F(x)
    schedule     q_l = q_L l / L,  l = 1..L,   that is survival p_l = 1 - (l / L)(1 - p_L)

Differs from the paper, as all libraries do: survivors are scaled up in training rather than all down by p_l at test, and
the draw is for each sample rather than for the whole batch (expectations are the same).

Huang, Sun, Liu, Sedra, Weinberger: Deep Networks with Stochastic Depth, 2016, arXiv:1603.09382.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


def stochastic_depth(branch: Float[Tensor, "b *rest"], rate: float, training: bool = True) -> Float[Tensor, "b *rest"]:
    """A branch's output before it is added to the skip path: zero for a share `rate` of the samples, else / (1 - rate)."""
    if not training or rate == 0:
        return branch
    kept = branch.new_empty((len(branch),) + (1,) * (branch.ndim - 1)).bernoulli_(1 - rate)
    return branch * (kept.div_(1 - rate) if rate < 1 else kept)


def drop_rates(blocks: int, last: float) -> list[float]:
    """q_l of `blocks` blocks, rising linearly to `last` at the deepest.

    >>> drop_rates(4, 0.5)
    [0.125, 0.25, 0.375, 0.5]
    """
    return [last * block / blocks for block in range(1, blocks + 1)]


class StochasticDepth(nn.Module):
    """`stochastic_depth` as a layer, silent in eval mode."""

    def __init__(self, rate: float):
        super().__init__()
        if not 0 <= rate <= 1:
            raise ValueError(f"rate: expected a probability from 0 to 1, got {rate}")
        self.rate = rate

    def forward(self, branch: Float[Tensor, "b *rest"]) -> Float[Tensor, "b *rest"]:
        return stochastic_depth(branch, self.rate, self.training)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
