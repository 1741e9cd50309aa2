"""Worked numbers of the fundamentals: neurons, activations, losses, ways of descent, rules of probability."""

import math

import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import Lasso
from torch import nn
from torch.nn import functional as F

from oculi.data.datasets import Splits
from oculi.data.digits import load as digits
from oculi.fundamentals import probability
from oculi.fundamentals.descent import conditioning, gradient_step, lasso, natural_step, newton_step
from oculi.fundamentals.mlp import TabularNetwork, perceptron, staircase
from oculi.learn.learner import Training, fit, seed_everything
from oculi.learn.training import build
from oculi.ops.convolution_arithmetic import parameter_count
from oculi.system import predict
from oculi.types import Batch, Sample


def close(a, b, tolerance=1e-6):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=tolerance, rtol=0)


# networks ----------------------------------------------------------------------------------------------------------


def test_parameters_of_3_4_4_1():
    for widths in ([3, 4, 4, 1], [64, 128, 10], [5, 2]):
        assert parameter_count(widths) == sum(p.numel() for p in perceptron(widths).parameters())


def test_a_layer_is_a_matrix_a_graph_and_neurons():
    torch.manual_seed(0)
    layer, x = perceptron([4, 3])[0], torch.randn(4)
    arrows = {(i, j): float(layer.weight[j, i].detach()) for i in range(4) for j in range(3)}
    assert len(arrows) == 4 * 3
    graph = [sum(arrows[i, j] * float(x[i]) for i in range(4)) + float(layer.bias[j].detach()) for j in range(3)]
    neurons = torch.stack([w @ x + b for w, b in zip(layer.weight, layer.bias, strict=True)])
    close(layer(x).detach(), torch.tensor(graph))
    close(layer(x), neurons)


def test_steps_approximate_ever_closer():
    function = lambda x: x.sin() + 0.3 * (5 * x).cos()  # noqa: E731
    inside = torch.linspace(-1.9, 1.9, 4001)[:, None]
    with torch.no_grad():
        errors = [float((staircase(function, -2, 2, n)(inside) - function(inside)).abs().max()) for n in (20, 80, 320)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 0.02


def test_a_polynomial_activation_does_not_approximate():
    """Squares of a line are parabolas, however many are added: |x| keeps its distance."""
    x = torch.linspace(-1, 1, 201)[:, None]
    features = torch.cat([(a * x + b) ** 2 for a in (1, 2, 3) for b in (-1, 0, 1)], 1)
    best = features @ torch.linalg.lstsq(features, x.abs(), driver="gelsd").solution
    assert float((best - x.abs()).abs().max()) > 0.1


def test_embeddings_are_rows_and_columns_join():
    torch.manual_seed(0)
    network = TabularNetwork([7, 3], 2, [8], 1)
    table = network.embeddings[0].weight
    picked = torch.tensor([6, 0, 6])
    assert torch.equal(network.embeddings[0](picked), F.one_hot(picked, 7).float() @ table)
    categories, values = torch.tensor([[6, 2], [0, 1]]), torch.randn(2, 2)
    joined = torch.cat([table[categories[:, 0]], network.embeddings[1].weight[categories[:, 1]], values], 1)
    assert torch.equal(network(categories, values), network.layers(joined))
    assert joined.shape[1] == 4 + 2 + 2


def test_categories_are_learned():
    """The target is a secret number for each category: nothing but the embedding can know it."""
    torch.manual_seed(0)
    secret, network = torch.randn(6), TabularNetwork([6], 1, [16], 1)
    category = torch.randint(0, 6, (200, 1))
    values = torch.randn(200, 1)
    target = secret[category] + values
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        F.mse_loss(network(category, values), target).backward()
        optimizer.step()
    assert float(F.mse_loss(network(category, values), target).detach()) < 0.05


def pad(samples, n):
    """Digits in a frame of two pixels, so that a shift loses nothing."""
    return [Sample(image=F.pad(samples[k].image, (2, 2, 2, 2)), label=samples[k].label) for k in range(n)]


def test_a_shift_of_two_pixels_hurts_a_perceptron_more_than_a_convnet():
    data = digits()
    splits = Splits(pad(data.train, 1000), pad(data.validation, 100), pad(data.test, 500), data.class_names)
    test = Batch.of([splits.test[k] for k in range(500)])
    falls = []
    for name, arguments in (("mlp", {"hidden": [64]}), ("resnet", {"depths": [1, 1], "width": 12, "zero_init": False})):
        seed_everything(0)
        system = build(name, image_size=12, **arguments)
        fit(system, Training(steps=200, batch_size=64, lr=0.005, schedule="cosine"), splits, progress=False)
        right = []
        for moved in (test.image, test.image.roll((2, 2), (2, 3))):
            said = torch.tensor([answer.label for answer in predict(system, Batch(image=moved))])
            right.append(float((said == test.label).float().mean()))
        assert right[0] > 0.9
        falls.append(right[0] - right[1])
    assert falls[0] >= falls[1] + 0.15


# activations and losses --------------------------------------------------------------------------------------------


def test_activations():
    z = torch.linspace(-4, 4, 41, dtype=torch.float64)
    close(z.tanh(), 2 * torch.sigmoid(2 * z) - 1, 1e-12)
    close(nn.LeakyReLU(0.01)(torch.tensor([-1.0, 2.0])), torch.tensor([-0.01, 2.0]))
    prelu = nn.PReLU(2, 0.25)
    x = torch.tensor([[-2.0, -2.0], [1.0, 3.0]])
    close(prelu(x).detach(), torch.tensor([[-0.5, -0.5], [1.0, 3.0]]))  # y = + alpha x below zero
    prelu(x).sum().backward()
    close(prelu.weight.grad, torch.tensor([-2.0, -2.0]))  # one slope a channel, learned
    alpha, scale = 1.6732632, 1.0507010
    close(F.selu(z), scale * torch.where(z > 0, z, alpha * (z.exp() - 1)), 1e-6)


def test_selu_keeps_mean_and_variance():
    torch.manual_seed(0)
    x = torch.randn(512, 256)
    for _ in range(20):
        x = F.selu(x @ torch.randn(256, 256) / 16)  # LeCun normal: variance 1 / n
    assert abs(float(x.mean())) < 0.1
    assert float(x.var()) == pytest.approx(1, abs=0.2)


def test_a_sigmoid_is_a_softmax_of_two_with_one_logit_at_zero():
    z = torch.linspace(-30, 30, 61, dtype=torch.float64)
    close(torch.sigmoid(z), torch.stack([z, torch.zeros_like(z)]).softmax(0)[0], 1e-12)


def test_absolute_and_huber_losses():
    close(F.l1_loss(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 7.0])), 2.0)
    zero = torch.zeros(1)
    close(F.huber_loss(torch.tensor([0.5]), zero), 0.125)
    close(F.huber_loss(torch.tensor([3.0]), zero), 2.5)
    far = torch.tensor([100.0], requires_grad=True)
    close(torch.autograd.grad(F.huber_loss(far, zero), far)[0], torch.ones(1))  # an outlier pulls no harder


def test_dropout_scales_in_training_and_rests_in_use():
    torch.manual_seed(0)
    layer, x = nn.Dropout(0.5), torch.ones(100_000)
    dropped = layer(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert float(dropped.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(layer.eval()(x), x)


# ways of descent ---------------------------------------------------------------------------------------------------


def bowl():
    torch.manual_seed(0)
    root = torch.randn(4, 4, dtype=torch.float64)
    matrix, shift = root @ root.T + torch.eye(4), torch.randn(4, dtype=torch.float64)
    return lambda w: 0.5 * w @ matrix @ w - shift @ w, torch.linalg.solve(matrix, shift)


def test_newton_ends_a_quadratic_in_one_step_and_descent_does_not():
    function, bottom = bowl()
    start = torch.ones(4, dtype=torch.float64) * 3
    close(newton_step(function, start), bottom, 1e-9)
    w = start
    for _ in range(20):
        lower = gradient_step(function, w, 0.05)
        assert function(lower) < function(w)
        w = lower
    assert float((w - bottom).norm()) > 1e-3


def test_newtons_line_search_agrees_with_scipy():
    function = lambda w: (1 - w[0]) ** 2 + 10 * (w[1] - w[0] ** 2) ** 2  # noqa: E731
    w = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    for _ in range(60):
        w = newton_step(function, w, damping=1e-3)
    theirs = minimize(lambda v: float(function(torch.from_numpy(v))), [-1.2, 1.0], method="Nelder-Mead", tol=1e-10)
    close(w, torch.from_numpy(theirs.x), 1e-5)
    with pytest.raises(ValueError, match="damping: the curvature is negative"):
        newton_step(lambda v: -(v**2).sum(), torch.ones(2))


def test_the_natural_gradient_does_not_care_for_coordinates():
    torch.manual_seed(0)
    w, x = torch.randn(3, dtype=torch.float64), torch.randn(50, 3, dtype=torch.float64)
    mix = torch.randn(3, 3, dtype=torch.float64) + 2 * torch.eye(3)  # v = mix w, so dL/dw = mix^T dL/dv
    scores = x * (torch.rand(50, 1) < 0.5).double().sub(0.5)
    gradient = scores.mean(0)
    back = torch.linalg.inv(mix)
    in_v = natural_step(mix @ w, back.T @ gradient, scores @ back, 0.1)
    close(in_v, mix @ natural_step(w, gradient, scores, 0.1), 1e-9)
    plain = (mix @ w - 0.1 * back.T @ gradient) - mix @ (w - 0.1 * gradient)
    assert float(plain.abs().max()) > 1e-3


def test_the_natural_gradient_finds_a_gaussians_mean_in_one_step():
    """Scores (x - m) / s^2, F = 1 / s^2: the step of length 1 is the sample mean, whatever s."""
    torch.manual_seed(0)
    for s in (0.1, 10.0):
        x = s * torch.randn(100_000, 1, dtype=torch.float64) + 3
        m = torch.tensor([3.0 + s], dtype=torch.float64)
        score = (x - m) / s**2
        model = s * torch.randn(100_000, 1, dtype=torch.float64) / s**2  # scores of samples of the model itself
        close(natural_step(m, -score.mean(0), model, 1.0), x.mean(0), 0.02 * s)


def test_an_absolute_penalty_ends_in_exact_zeros():
    torch.manual_seed(0)
    x = torch.randn(80, 10, dtype=torch.float64)
    y = x[:, 0] * 3 - x[:, 4] * 2 + 0.1 * torch.randn(80, dtype=torch.float64)
    w = lasso(x, y, 0.2)
    theirs = Lasso(alpha=0.2, fit_intercept=False, tol=1e-10).fit(x.numpy(), y.numpy()).coef_
    close(w, torch.from_numpy(theirs), 1e-6)
    assert int((w == 0).sum()) >= 6
    ridge = torch.linalg.solve(x.T @ x + 16 * torch.eye(10), x.T @ y)
    assert int((ridge == 0).sum()) == 0
    close(lasso(x, y, 0.0), torch.linalg.lstsq(x, y[:, None]).solution[:, 0], 1e-8)


def test_conditioning():
    torch.manual_seed(0)
    data = torch.randn(2000, 3)
    good, bad = conditioning(data), conditioning(data * torch.tensor([1.0, 1.0, 100.0]))
    assert good.well
    assert not bad.well
    assert good.condition_number < 1.2
    assert bad.condition_number == pytest.approx(100, rel=0.1)
    assert not conditioning(data + 1).well
    standard = (data * torch.tensor([1.0, 5.0, 9.0]) - 4 - data.mean(0)) @ torch.eye(3)
    assert conditioning((standard - standard.mean(0)) / standard.std(0)).well


# probability -------------------------------------------------------------------------------------------------------


def test_probabilities_of_two_dice_by_counting():
    rolls = {(i, j) for i in range(1, 7) for j in range(1, 7)}
    six = {r for r in rolls if r[0] == 6}
    high = {r for r in rolls if sum(r) >= 10}
    p, q, r = (probability.chance(event, rolls) for event in (six, high, six & high))
    assert probability.chance(six | high, rolls) == pytest.approx(probability.either(p, q, r))
    assert r == pytest.approx(probability.both(p, len(six & high) / len(six)))
    second = {r for r in rolls if r[1] == 6}
    assert probability.chance(six & second, rolls) == pytest.approx(probability.both_independent(1 / 6, 1 / 6))
    assert probability.both_independent(p, q) != pytest.approx(r)  # they do tell about each other


def test_logarithm_rules():
    x, y, b = 7.5, 0.3, 4.0
    log = probability.logarithm
    assert log(x * y, b) == pytest.approx(log(x, b) + log(y, b))
    assert log(x / y, b) == pytest.approx(log(x, b) - log(y, b))
    assert log(x**y, b) == pytest.approx(y * log(x, b))
    assert log(x, b) == pytest.approx(log(x, 10) / log(b, 10))
    assert log(100, 10) == pytest.approx(math.log10(100))


def test_what_cannot_be():
    for call in (
        lambda: probability.either_exclusive(0.7, 0.6),
        lambda: probability.either(0.5, 0.5, 0.6),
        lambda: probability.both(1.2, 0.5),
        lambda: probability.chance({7}, {1, 2}),
        lambda: probability.logarithm(0.0, 2.0),
        lambda: perceptron([4]),
        lambda: perceptron([4, 2], "gelu"),
        lambda: TabularNetwork([0], 1, [4], 1),
        lambda: staircase(torch.sin, 1.0, 0.0, 4),
        lambda: lasso(torch.ones(2, 1), torch.ones(2), -1.0),
        lambda: conditioning(torch.ones(1, 2)),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
