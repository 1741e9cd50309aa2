r"""Which weights a run keeps: those of the lowest validation loss, or averages, whose batch norms have to be settled."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from oculi.data.datasets import Dataset, batches, training_batches
from oculi.system import System, evaluating
from oculi.types import Batch, Losses


class Best:
    """The weights of the lowest validation loss so far, and for how many looks it has not fallen."""

    def __init__(self, patience: int):
        self.patience, self.loss, self.waited = patience, float("inf"), 0
        self.weights: dict[str, torch.Tensor] = {}

    def shows(self, loss: float, system: System) -> bool:
        """Take note of a look; whether it was the last one. With patience 0 nothing is kept and nothing stops."""
        if not self.patience:
            return False
        if loss < self.loss:
            self.loss, self.waited = loss, 0
            self.weights = {key: value.clone() for key, value in system.state_dict().items()}
        else:
            self.waited += 1
        return self.waited >= self.patience


def validation_loss(system: System, dataset: Dataset, batch_size: int) -> float:
    """The mean loss over a data set, every sample counting the same; random numbers are drawn alike each time."""
    total, count = 0.0, 0
    with evaluating(system), torch.random.fork_rng():
        torch.manual_seed(0)
        for batch in batches(dataset, batch_size):
            losses = system.loss(batch.to(system.device))
            total, count = total + float(torch.stack(list(losses.values())).sum()) * len(batch), count + len(batch)
    return total / count


class _Loss(nn.Module):
    """A system whose forward is its loss, for torch's functions that call models."""

    def __init__(self, system: nn.Module):
        super().__init__()
        self.system = system

    def forward(self, batch: Batch) -> Losses:
        return self.system.loss(batch)  # type: ignore[operator]


def settle_batch_norms(system: System, dataset: Dataset, batch_size: int, most: int = 100) -> None:
    """Batch norms get the statistics of the training data under the present weights, over at most so many batches."""
    steps = min(most, max(1, len(dataset) // batch_size))
    update_bn(training_batches(dataset, batch_size, steps, seed=0), _Loss(system), device=system.device)
