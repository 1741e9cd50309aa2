"""The engine against torch.autograd: gates by hand, random expressions, a neuron, whole training loops."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from oculi.fundamentals.autograd_engine import AutogradEngine, cross_entropy, gradient_error, unbroadcast


def gradients(function, *values, upstream=1.0):
    """The value of a function of leaves, and its gradients times `upstream`."""
    engine = AutogradEngine()
    leaves = [engine.leaf(v) for v in values]
    result = function(*leaves)
    engine.backward((result * upstream).sum())
    return result.value, [leaf.grad for leaf in leaves]


def test_gates_by_hand():
    assert gradients(lambda x: x + 7.0, 1.0)[1] == [1]
    assert gradients(lambda x, y: x + y, 3.0, 4.0, upstream=2)[1] == [2, 2]  # handed on whole, not divided
    assert gradients(lambda x, y: x * y, 3.0, 4.0, upstream=2)[1] == [8, 6]
    assert gradients(lambda x, y: x.maximum(y), 3.0, 5.0, upstream=2)[1] == [0, 2]
    value, _ = gradients(lambda x, y: x * y, [1.0, 2.0], [3.0, 4.0])
    assert value.tolist() == [3, 8]  # Hadamard's product


def test_a_sigmoid_neuron_gate_by_gate():
    """f = 1 / (1 + exp(-(w0 x0 + w1 x1 + w2))) at w = (2, -3, -3), x = (-1, -2)."""
    engine = AutogradEngine()
    w, x = [engine.leaf(v) for v in (2.0, -3.0, -3.0)], [engine.leaf(v) for v in (-1.0, -2.0)]
    dot = w[0] * x[0] + w[1] * x[1] + w[2]
    f = dot.sigmoid()
    engine.backward(f)
    assert (float(dot.value), float(f.value)) == pytest.approx((1.0, 0.7311), abs=1e-4)
    assert [float(v.grad) for v in w] == pytest.approx([-0.1966, -0.3932, 0.1966], abs=1e-4)
    assert [float(v.grad) for v in x] == pytest.approx([0.3932, -0.5898], abs=1e-4)
    assert float(dot.grad) == pytest.approx(0.7311 * (1 - 0.7311), abs=1e-4)


def test_random_expressions():
    assert gradient_error(50, seed=1) < 1e-9


def test_two_backward_passes_add_up_and_a_value_used_twice_gets_both():
    engine = AutogradEngine()
    x = engine.leaf([3.0])
    loss = (x * x).sum()
    engine.backward(loss)
    assert x.grad.tolist() == [6]
    engine.backward(loss)
    assert x.grad.tolist() == [12]
    engine.zero_grad()
    assert x.grad.tolist() == [0]
    assert engine.tape == []


def test_cross_entropy_and_matrices():
    generator = np.random.default_rng(0)
    w, x, label = generator.normal(size=(5, 3)), 50 * generator.normal(size=(4, 5)), np.array([0, 2, 1, 1])
    value, (mine,) = gradients(lambda leaf: cross_entropy(leaf.engine.constant(x) @ leaf, label), w)
    theirs = torch.tensor(w, requires_grad=True)
    loss = F.cross_entropy(torch.from_numpy(x) @ theirs, torch.from_numpy(label))
    loss.backward()
    assert float(value) == pytest.approx(float(loss.detach()))
    np.testing.assert_allclose(mine, theirs.grad.numpy(), rtol=1e-10, atol=1e-12)


def test_numerical_gradients():
    x = np.array([[0.3, -0.7], [1.2, 0.4]])
    compute = lambda leaf: (leaf.sigmoid() * leaf.exp() / (leaf * leaf + 1.0)).mean()  # noqa: E731
    _, (mine,) = gradients(compute, x)
    for place in np.ndindex(2, 2):
        apart = np.zeros((2, 2))
        apart[place] = 1e-6
        slope = (gradients(compute, x + apart)[0] - gradients(compute, x - apart)[0]) / 2e-6
        assert float(mine[place]) == pytest.approx(float(slope), rel=1e-6)


def regression():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(65, 3))
    return x, x @ np.array([[1.0], [-2.0], [0.5]])


def test_a_training_loop_by_hand_equals_torchs_optimiser():
    """Slices of the data, L2 by hand: the penalty wd sum w^2 is torch's weight_decay = 2 wd. (n - 1) // bs + 1 batches."""
    (x, y), wd, lr, size = regression(), 0.01, 0.1, 16
    engine = AutogradEngine()
    w = engine.leaf(np.zeros((3, 1)))
    theirs = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theirs], lr=lr, weight_decay=2 * wd)
    count = (len(x) - 1) // size + 1
    assert count == 5
    for k in range(count):
        xs, ys = x[k * size : (k + 1) * size], y[k * size : (k + 1) * size]
        engine.backward(((engine.constant(xs) @ w - ys) ** 2.0).mean() + (w * w).sum() * wd)
        engine.step(lr)
        engine.zero_grad()
        optimizer.zero_grad()
        F.mse_loss(torch.from_numpy(xs) @ theirs, torch.from_numpy(ys)).backward()
        optimizer.step()
    np.testing.assert_allclose(w.value, theirs.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_descent_converges_and_ascent_does_not():
    """The delta rule w += alpha x (goal - prediction) is a step down half the squared error's gradient."""
    x, y = regression()
    for sign, ends in ((1, True), (-1, False)):
        w = np.zeros((3, 1))
        for k in range(400):
            one, goal = x[k % 65 : k % 65 + 1], y[k % 65 : k % 65 + 1]
            w = w + sign * 0.05 * one.T @ (goal - one @ w)
        assert (float(np.abs(x @ w - y).max()) < 1e-3) == ends


def test_the_mean_of_minibatch_gradients_is_the_full_gradient():
    x, y = regression()
    x, y = x[:64], y[:64]
    compute = lambda k: gradients(lambda w: ((w.engine.constant(x[k]) @ w - y[k]) ** 2.0).mean(), np.ones((3, 1)))[1][0]  # noqa: E731
    order = np.random.default_rng(1).permutation(64)
    parts = [compute(order[k : k + 16]) for k in range(0, 64, 16)]
    np.testing.assert_allclose(np.mean(parts, 0), compute(np.arange(64)), rtol=1e-12)
    assert float(np.abs(parts[0] - parts[1]).max()) > 0.01


def test_bad_input():
    engine = AutogradEngine()
    x = engine.leaf([1.0, 2.0])
    with pytest.raises(ValueError, match="loss: expected one number"):
        engine.backward(x * 2.0)
    with pytest.raises(ValueError, match="matmul: expected two matrices"):
        x @ x
    assert unbroadcast(np.ones((5, 3, 2)), (3, 1)).tolist() == [[10.0]] * 3
