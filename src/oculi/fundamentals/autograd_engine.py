r"""Reverse-mode differentiation on numpy arrays: the chain rule, applied to a recording of what was computed.

The forward pass writes every operation on a tape, with the values it will need. The backward pass reads the tape from
its end: a node u = f(x) that has received dL/du hands each input its share,

    dL/dx += J_f^T dL/du

so that one pass, about as dear as the forward one, gives the gradient of one number by everything. The gates:

    add         every input gets the whole gradient, unchanged
    multiply    each input gets the gradient times the other input
    max         the larger input gets the gradient, the other one nothing
    matmul      C = A B:  dA = dC B^T,  dB = A^T dC

Gradients are added to what is there, as a value used twice needs, and so do two backward passes: `zero_grad` clears them.

    engine = AutogradEngine()
    w = engine.leaf([[1.0, 2.0]])
    loss = (w * w).sum()
    engine.backward(loss)          # w.grad is 2 w
    engine.step(0.1)               # w.value -= 0.1 w.grad
    engine.zero_grad()

Broadcast inputs get the sum over the axes along which they were repeated. Differs from torch's in that all is float64,
that leaves all require a gradient unless made by `constant`, and that the tape is cleared by `zero_grad`, not by
`backward`.

Rumelhart, Hinton, Williams: Learning Representations by Back-propagating Errors, 1986, doi:10.1038/323533a0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

Array = np.ndarray
Pull = Callable[[Array], Array]


class Node:
    """A value on the tape: its inputs, and for each how a gradient by this node becomes one by the input."""

    def __init__(self, engine: AutogradEngine, value: ArrayLike, inputs: tuple[tuple[Node, Pull], ...] = ()):
        self.engine, self.inputs = engine, inputs
        self.value = np.asarray(value, dtype=np.float64)
        self.grad = np.zeros_like(self.value)

    def __add__(self, other: Any) -> Node:
        return self._record(np.add, other, lambda g: g, lambda g: g)

    def __mul__(self, other: Any) -> Node:
        b = self._lift(other)
        return self._record(np.multiply, b, lambda g: g * b.value, lambda g: g * self.value)

    def maximum(self, other: Any) -> Node:
        """The larger of two; the second where they are equal."""
        b = self._lift(other)
        wins = self.value > b.value
        return self._record(np.maximum, b, lambda g: g * wins, lambda g: g * ~wins)

    def __matmul__(self, other: Any) -> Node:
        b = self._lift(other)
        if self.value.ndim != 2 or b.value.ndim != 2:
            raise ValueError(f"matmul: expected two matrices, got shapes {self.value.shape} and {b.value.shape}")
        pulls = ((self, lambda g: g @ b.value.T), (b, lambda g: self.value.T @ g))
        return self.engine.record(self.value @ b.value, pulls)

    def exp(self) -> Node:
        """e to the power of each value."""
        value = np.exp(self.value)
        return self.engine.record(value, ((self, lambda g: g * value),))

    def log(self) -> Node:
        """Natural logarithms."""
        return self.engine.record(np.log(self.value), ((self, lambda g: g / self.value),))

    def __pow__(self, power: float) -> Node:
        slope = power * self.value ** (power - 1)
        return self.engine.record(self.value**power, ((self, lambda g: g * slope),))

    def sum(self, axis: int | None = None) -> Node:
        """The sum, over everything or one axis, which stays with length 1."""
        value = self.value.sum(axis=axis, keepdims=axis is not None)
        return self.engine.record(value, ((self, lambda g: np.broadcast_to(g, self.value.shape)),))

    def __neg__(self) -> Node:
        return self * -1.0

    def __sub__(self, other: Any) -> Node:
        return self + -self._lift(other)

    def __truediv__(self, other: Any) -> Node:
        return self * self._lift(other) ** -1.0

    def relu(self) -> Node:
        """max(x, 0)."""
        return self.maximum(0.0)

    def sigmoid(self) -> Node:
        """1 / (1 + e^-x), from the gates above."""
        return ((-self).exp() + 1.0) ** -1.0

    def mean(self) -> Node:
        """The mean over everything."""
        return self.sum() * (1.0 / self.value.size)

    __radd__, __rmul__ = __add__, __mul__

    def _lift(self, other: Any) -> Node:
        return other if isinstance(other, Node) else self.engine.constant(other)

    def _record(self, forward: Callable[..., Array], other: Any, mine: Pull, theirs: Pull) -> Node:
        """Two inputs that numpy broadcasts to one shape."""
        b = self._lift(other)
        pulls = (
            (self, lambda g: unbroadcast(mine(g), self.value.shape)),
            (b, lambda g: unbroadcast(theirs(g), b.value.shape)),
        )
        return self.engine.record(forward(self.value, b.value), pulls)


class AutogradEngine:
    """The tape and the leaves that learn."""

    def __init__(self) -> None:
        self.tape: list[Node] = []
        self.leaves: list[Node] = []

    def leaf(self, value: ArrayLike) -> Node:
        """A value to be differentiated by and stepped."""
        self.leaves.append(Node(self, value))
        return self.leaves[-1]

    def constant(self, value: ArrayLike) -> Node:
        """A value that keeps as it is."""
        return Node(self, value)

    def record(self, value: ArrayLike, inputs: tuple[tuple[Node, Pull], ...]) -> Node:
        """A new node at the end of the tape."""
        self.tape.append(Node(self, value, inputs))
        return self.tape[-1]

    def backward(self, loss: Node) -> None:
        """Add the gradient of one number by each leaf to the leaf's `grad`."""
        if loss.value.size != 1:
            raise ValueError(f"loss: expected one number, got the shape {loss.value.shape}")
        for node in self.tape:
            node.grad = np.zeros_like(node.value)
        loss.grad = np.ones_like(loss.value)
        for node in reversed(self.tape):
            for given, pull in node.inputs:
                given.grad = given.grad + pull(node.grad)

    def step(self, lr: float) -> None:
        """One step of gradient descent, w <- w - lr dL/dw."""
        for leaf in self.leaves:
            leaf.value = leaf.value - lr * leaf.grad

    def zero_grad(self) -> None:
        """Forget the gradients and what was computed."""
        self.tape.clear()
        for leaf in self.leaves:
            leaf.grad = np.zeros_like(leaf.value)


def unbroadcast(gradient: ArrayLike, shape: tuple[int, ...]) -> Array:
    """The sum over the axes along which an array of `shape` was repeated.

    >>> unbroadcast(np.ones((3, 2)), (1, 2)).tolist()
    [[3.0, 3.0]]
    """
    gradient = np.asarray(gradient)
    gradient = np.asarray(gradient.sum(axis=tuple(range(gradient.ndim - len(shape)))))
    repeated = tuple(k for k, length in enumerate(shape) if length == 1 and gradient.shape[k] != 1)
    return np.asarray(gradient.sum(axis=repeated, keepdims=True))


def cross_entropy(logits: Node, label: Array) -> Node:
    """Mean -log softmax of the right class; the largest logit is taken off first, as a constant."""
    shifted = logits - logits.value.max(axis=1, keepdims=True)
    chosen = (shifted * np.eye(logits.value.shape[1])[label]).sum(axis=1)
    return (shifted.exp().sum(axis=1).log() - chosen).mean()


_OPERATIONS: tuple[Callable[[Any, Any], Any], ...] = (
    lambda x, y: x + y,
    lambda x, y: x * y,
    lambda x, y: x.maximum(y),
    lambda x, y: x / (y + 1.0),
    lambda x, y: (x * 0.1).exp(),
    lambda x, y: (x * x + 1.0).log() - y,
)


def random_expression(generator: np.random.Generator, operations: int = 12) -> tuple[list[Array], Any]:
    """Leaves, and a function that computes one number of nodes or of torch tensors alike from them."""
    leaves = [generator.uniform(0.5, 1.5, shape) for shape in ((3, 4), (1, 4), (3, 1))]
    plan = generator.integers(0, len(_OPERATIONS), operations), generator.integers(0, 3, operations)

    def compute(values: list[Any]) -> Any:
        x = values[0]
        for kind, which in zip(*plan, strict=True):
            x = _OPERATIONS[kind](x, values[which])
        return (x * x).sum()

    return leaves, compute


def gradient_error(expressions: int, seed: int = 0) -> float:
    """The largest relative difference from torch's gradients over random expressions."""
    generator, worst = np.random.default_rng(seed), 0.0
    for _ in range(expressions):
        leaves, compute = random_expression(generator)
        engine = AutogradEngine()
        mine = [engine.leaf(v) for v in leaves]
        engine.backward(compute(mine))
        theirs = [torch.tensor(v, requires_grad=True) for v in leaves]
        compute(theirs).backward()
        for a, b in zip(mine, theirs, strict=True):
            expected = torch.zeros_like(b) if b.grad is None else b.grad
            scale = float(expected.abs().max()) or 1.0
            worst = max(worst, float((torch.from_numpy(a.grad) - expected).abs().max()) / scale)
    return worst


def experiment(expressions: int = 200, hidden: int = 32, epochs: int = 30, lr: float = 0.3) -> dict[str, float]:
    """Against torch on random expressions; and a network of two layers trained on digits by nothing but this engine."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    generator = np.random.default_rng(0)
    order = generator.permutation(len(bunch.target))
    x, y = bunch.data[order] / 16.0, bunch.target[order]
    train = 1297
    engine = AutogradEngine()
    first, second = (engine.leaf(generator.normal(0, (2 / n) ** 0.5, (n, m))) for n, m in ((64, hidden), (hidden, 10)))
    shifts = engine.leaf(np.zeros((1, hidden))), engine.leaf(np.zeros((1, 10)))

    def logits(pictures: Array) -> Node:
        return (engine.constant(pictures) @ first + shifts[0]).relu() @ second + shifts[1]

    for _ in range(epochs):
        mixed = generator.permutation(train)
        for batch in np.array_split(mixed, train // 64):
            engine.backward(cross_entropy(logits(x[batch]), y[batch]))
            engine.step(lr)
            engine.zero_grad()
    accuracy = float((logits(x[train:]).value.argmax(1) == y[train:]).mean())
    return {"gradient_error": gradient_error(expressions), "accuracy": accuracy}
