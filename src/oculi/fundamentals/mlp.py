r"""Multilayer perceptron: layers of neurons, each a weighted sum of all of the layer before it behind an activation.

    x_0 = the picture's values, in a row
    x_l = act(W_l x_{l-1} + b_l)          hidden layers: features in which the classes can be told apart by a plane
    p   = softmax(W_L x_{L-1} + b_L)      a linear classifier

A layer from n to k values is a matrix of k rows, a graph of n k arrows, and k neurons of n weights each: three views of
the same numbers. On pictures it needs many weights and knows nothing of neighbourhood: a shifted picture is another one.

    image     batch x C x H x W
    logits    batch x classes

One wide hidden layer with any activation but a polynomial approximates every continuous function on a compact set as
closely as one likes, `staircase` by construction; that it is found by learning, or holds beside the data, nobody promises.

Rumelhart, Hinton, Williams: Learning Representations by Back-propagating Errors, 1986, doi:10.1038/323533a0.
Cybenko: Approximation by Superpositions of a Sigmoidal Function, 1989. Hornik: Approximation Capabilities, 1991.
Guo, Berkhahn: Entity Embeddings of Categorical Variables, 2016, arXiv:1604.06737.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from oculi.input_contract import InputContract
from oculi.nn.classification import classification_loss, classification_predictions
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "selu": nn.SELU,
}


def perceptron(widths: Sequence[int], activation: str = "relu", dropout: float = 0.0) -> nn.Sequential:
    """Linear layers between the widths, each but the last with its activation and dropout."""
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths: expected at least two, of 1 or more, got {list(widths)}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation}")
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation](), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])


class MLP(System):
    """A perceptron on pictures of one size."""

    answer = Classes

    def __init__(
        self,
        num_classes: int = 10,
        hidden: list[int] = [128, 64],  # noqa: B006 - read only; a list so that JSON gives it back
        activation: Literal["relu", "tanh", "sigmoid", "leaky_relu", "prelu", "selu"] = "relu",
        dropout: float = 0.0,
        in_channels: int = 1,
        image_size: int = 8,
    ):
        super().__init__(InputContract(image_size, image_size, in_channels))
        self.layers = perceptron([in_channels * image_size**2, *hidden, num_classes], activation, dropout)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits."""
        return self.layers(self.normalize(image).flatten(1))

    def loss(self, batch: Batch) -> Losses:
        return classification_loss(self(batch.image), batch.label)

    def predict(self, batch: Batch) -> list[Classes]:
        return classification_predictions(self(batch.image), self.class_names)


class TabularNetwork(nn.Module):
    """A perceptron on tables: each categorical column has a learned vector per value, beside the continuous columns.

    cardinalities: how many values each categorical column has; its vectors have half as many entries, at most 50.
    """

    def __init__(self, cardinalities: Sequence[int], continuous: int, hidden: Sequence[int], outputs: int):
        super().__init__()
        if min(cardinalities, default=1) < 1:
            raise ValueError(f"cardinalities: expected at least one value a column, got {list(cardinalities)}")
        sizes = [min(50, (n + 1) // 2) for n in cardinalities]
        self.embeddings = nn.ModuleList(nn.Embedding(n, size) for n, size in zip(cardinalities, sizes))
        self.layers = perceptron([sum(sizes) + continuous, *hidden, outputs])

    def forward(
        self, categories: Int[Tensor, "b columns"], values: Float[Tensor, "b continuous"]
    ) -> Float[Tensor, "b outputs"]:
        embedded = [embedding(categories[:, k]) for k, embedding in enumerate(self.embeddings)]
        return self.layers(torch.cat([*embedded, values], 1))


def staircase(
    function: Callable[[Tensor], Tensor], low: float, high: float, steps: int, steep: float = 1e4
) -> nn.Sequential:
    """One hidden layer of pairs of steep sigmoids, each pair a step of the height that the function has there.

        sum_k f(m_k) [s(a (x - l_k)) - s(a (x - r_k))]      m_k the middle of the interval [l_k, r_k]

    >>> network = staircase(torch.sin, 0.0, 3.0, 300)
    >>> x = torch.linspace(0.01, 2.99, 999)[:, None]
    >>> bool((network(x) - x.sin()).abs().max() < 0.02)
    True
    """
    if steps < 1 or not low < high:
        raise ValueError(f"steps, low, high: expected 1 or more and low < high, got {steps}, {low}, {high}")
    edges = torch.linspace(low, high, steps + 1)
    heights = function((edges[1:] + edges[:-1]) / 2)
    inner, outer = nn.Linear(1, 2 * steps), nn.Linear(2 * steps, 1, bias=False)
    sharp = steep * steps / (high - low)
    with torch.no_grad():
        inner.weight.fill_(sharp)
        inner.bias.copy_(-sharp * torch.cat([edges[:-1], edges[1:]]))
        outer.weight.copy_(torch.cat([heights, -heights])[None])
    return nn.Sequential(inner, nn.Sigmoid(), outer)
