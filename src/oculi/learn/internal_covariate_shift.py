r"""Why batch norm helps: two theories, each as a number that is measured on a network in training.

1. Internal covariate shift (Ioffe, Szegedy 2015). A layer's inputs change their distribution because the layers before
   it learn. `input_drift`: with the mean mu and the deviation s of each channel before and after one step,

       mean_c |mu_c' - mu_c| / s_c       and       mean_c |ln s_c' - ln s_c|

   `gradient_shift` (Santurkar 2018, definition 2.1): the gradient of a layer's weights before and after all layers
   before it, and none other, have made their step of size r,

       G = grad_i L(W_1, ..., W_n),   G' = grad_i L(W_1', ..., W_{i-1}', W_i, ..., W_n),    |G - G'| and cos(G, G')

2. A smoother landscape (Santurkar 2018). Along the gradient g at the weights w, over steps a of several lengths:

       loss_range         max_a L(w - a g) - min_a L(w - a g)                 how far the loss varies
       gradient_change    max_a |g(w - a g) - g(w)|                           how far one may trust the gradient
       smoothness         max_a |g(w - a g) - g(w)| / (a |g|)                 the effective beta of the landscape

Both look at the system in the mode in which it learns, batch norms using the batch, and leave weights, statistics and
gradients as they were.

Ioffe, Szegedy: Batch Normalization, 2015, arXiv:1502.03167.
Santurkar, Tsipras, Ilyas, Madry: How Does Batch Normalization Help Optimization?, 2018, arXiv:1805.11604.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oculi.system import System
from oculi.types import Batch


@dataclass(frozen=True)
class InputDrift:
    """By layer: how far means move, in deviations, and the deviations themselves, as a logarithm."""

    mean: dict[str, float]
    spread: dict[str, float]


@dataclass(frozen=True)
class GradientShift:
    """By layer: the distance of the two gradients, and the cosine between them (1 = nothing shifted)."""

    distance: dict[str, float]
    cosine: dict[str, float]


@dataclass(frozen=True)
class Predictiveness:
    """How the loss and its gradient vary along the gradient."""

    loss_range: float
    gradient_change: float
    smoothness: float


def input_drift(system: System, batch: Batch, step: Callable[[], object]) -> InputDrift:
    """How the inputs of each layer with weights drift when `step` changes the system, seen on the same batch."""
    before = _input_statistics(system, batch)
    step()
    after = _input_statistics(system, batch)
    mean, spread = {}, {}
    for name, (centre, deviation) in before.items():
        moved, wider = after[name]
        mean[name] = float(((moved - centre).abs() / deviation).mean())
        spread[name] = float((wider.log() - deviation.log()).abs().mean())
    return InputDrift(mean, spread)


def gradient_shift(system: System, batch: Batch, rate: float) -> GradientShift:
    """The shift of each layer's gradient by one gradient step of size `rate` of the layers before it."""
    if rate <= 0:
        raise ValueError(f"rate: expected a positive number, got {rate}")
    with _left_as_it_was(system):
        weights = _weights(system, batch)
        gradients = _gradients(system, batch, list(weights.values()))
        distance, cosine = {}, {}
        for k, (name, weight) in enumerate(weights.items()):
            now = _gradients(system, batch, [weight])[0] if k else gradients[0]
            distance[name] = float((now - gradients[k]).norm())
            cosine[name] = float(F.cosine_similarity(now.flatten(), gradients[k].flatten(), dim=0))
            with torch.no_grad():
                weight.sub_(rate * gradients[k])
    return GradientShift(distance, cosine)


def predictiveness(system: System, batch: Batch, lengths: Sequence[float]) -> Predictiveness:
    """The landscape along the gradient at steps of the given `lengths`, factors of the gradient as rates are."""
    if not lengths or min(lengths) <= 0:
        raise ValueError(f"lengths: expected at least one positive number, got {list(lengths)}")
    with _left_as_it_was(system):
        weights = [p for p in system.parameters() if p.requires_grad]
        start = [p.detach().clone() for p in weights]
        loss, at_start = _loss_and_gradients(system, batch, weights)
        losses, changes = [loss], []
        for length in lengths:
            with torch.no_grad():
                for p, value, slope in zip(weights, start, at_start, strict=True):
                    p.copy_(value - length * slope)
            loss, here = _loss_and_gradients(system, batch, weights)
            losses.append(loss)
            changes.append(_norm([a - b for a, b in zip(here, at_start, strict=True)]))
        steep = max(_norm(at_start), 1e-12)
    betas = [change / (length * steep) for change, length in zip(changes, lengths, strict=True)]
    return Predictiveness(max(losses) - min(losses), max(changes), max(betas))


def _input_statistics(system: System, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and deviation, per channel or feature, of what goes into each layer with weights, in order of use."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            channel = 1 if isinstance(module, nn.Conv2d) else -1
            values = given[0].detach().movedim(channel, 0).flatten(1)
            found[name] = values.mean(1), values.std(1, correction=0).clamp_min(1e-6)

        return note

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in _layers(system)]
    try:
        with _left_as_it_was(system), torch.no_grad():
            system.loss(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _weights(system: System, batch: Batch) -> dict[str, nn.Parameter]:
    """The weight of each layer that learns, in the order in which the data meet them."""
    layers = dict(_layers(system))
    used = _input_statistics(system, batch)
    return {name: layers[name].weight for name in used if layers[name].weight.requires_grad}  # type: ignore[misc]


def _layers(system: System) -> Iterator[tuple[str, nn.Module]]:
    return ((name, m) for name, m in system.named_modules() if isinstance(m, nn.Conv2d | nn.Linear))


def _loss_and_gradients(system: System, batch: Batch, weights: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
    loss = torch.stack(list(system.loss(batch).values())).sum()
    given = torch.autograd.grad(loss, weights, allow_unused=True)
    return float(loss.detach()), [torch.zeros_like(p) if g is None else g for g, p in zip(given, weights, strict=True)]


def _gradients(system: System, batch: Batch, weights: Sequence[Tensor]) -> list[Tensor]:
    return _loss_and_gradients(system, batch, weights)[1]


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.stack([t.norm() for t in tensors]).norm())


@contextmanager
def _left_as_it_was(system: System) -> Iterator[None]:
    """Weights, statistics and random numbers as before, whatever is done to the system inside; the numbers are those
    of seed 0, so that dropout and noise are the same each time."""
    kept = {name: value.clone() for name, value in system.state_dict().items()}
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            yield
    finally:
        system.load_state_dict(kept)
