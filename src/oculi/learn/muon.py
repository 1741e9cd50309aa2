r"""Muon for matrices and AdamW for all else, as one optimiser.

Muon steps along the orthogonal matrix nearest to the running mean M of a matrix's gradients, so that all of its directions
move alike, those too that seldom show; scaled so that a rate means what it means for AdamW:

    M <- 0.95 M + 0.05 G        0.05 G + 0.95 M = U S V'        W <- W - rate (0.2 sqrt(max(rows, columns)) U V' + decay W)

Matrices are the weights of linear layers and of 1x1 convolutions, which are linear layers in every pixel. Wider kernels,
norms, biases and tables of positions learn by AdamW at a tenth of the rate, which is then about what one would give to
AdamW alone. Where linear layers do the work this takes a fraction of AdamW's steps.

`torch.optim.Muon` takes the same steps, by matrices of two axes alone and in bfloat16 everywhere, which on processors
without it costs more than twice the time.

Jordan: Muon, an optimizer for hidden layers in neural networks, 2024.
Liu, Su et al.: Muon is Scalable for LLM Training, 2025, arXiv:2502.16982.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

MOMENTUM, SHARE = 0.95, 0.1  # SHARE: of the rate, for AdamW's part
NOTHING = 1e-12  # of a direction's length: what fades behind dead units, whose squares would be denormal and slow


def is_matrix(weight: Tensor) -> bool:
    """Two axes, or four of which the last two are 1; neither a row nor a column."""
    return weight.ndim in (2, 4) and weight.shape[2:].numel() == 1 and min(weight.shape[:2]) > 1


def nearest_orthogonal(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """U V' of U S V', nearly: five Newton-Schulz steps bring each singular value to 0.7 to 1.2, tiny ones not all the way."""
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    x = x.mT if len(x) > x.shape[1] else x
    x = F.hardshrink(x / x.norm().clamp(min=1e-7), NOTHING)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x.mT if len(matrix) > matrix.shape[1] else x).to(matrix)


class MuonAdamW(torch.optim.Optimizer):
    """Steps matrices itself, holds AdamW for the rest. groups: as torch's; `weight_decay` is 0 where they give none."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], fused: bool):
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        others = [{**g, "params": [p for p in g["params"] if not is_matrix(p)]} for g in self.param_groups]
        self.adamw = torch.optim.AdamW(others, betas=betas, fused=fused)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group, others in zip(self.param_groups, self.adamw.param_groups, strict=True):
            others["lr"] = SHARE * group["lr"]
            for weight in group["params"]:
                if is_matrix(weight) and weight.grad is not None:
                    self._move(weight, weight.grad, group["lr"], group["weight_decay"])
        self.adamw.step()
        return loss

    def _move(self, weight: Tensor, gradient: Tensor, lr: float, decay: float) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        mean = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        direction = nearest_orthogonal(gradient.lerp(mean, MOMENTUM).flatten(1))
        weight.mul_(1 - lr * decay)
        weight.sub_(direction.view_as(weight), alpha=0.2 * lr * max(weight.shape[:2]) ** 0.5)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.adamw.load_state_dict(state_dict["adamw"])
