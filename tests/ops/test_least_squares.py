"""Levenberg-Marquardt beside scipy's, batched, and what it refuses."""

import numpy as np
import pytest
import scipy.optimize
import torch

from oculi.ops.least_squares import levenberg_marquardt


def rosenbrock(p):
    return torch.stack([10 * (p[1] - p[0] ** 2), 1 - p[0]])


def decay(p, t, y):
    return p[0] * torch.exp(-p[1] * t) + p[2] - y


def curve(p, t, y):
    return p[0] * np.exp(-p[1] * t) + p[2] - y


def test_rosenbrock_from_several_starts():
    starts = torch.tensor([[-1.2, 1.0], [3.0, -2.0], [1.0, 1.0]])
    found = levenberg_marquardt(rosenbrock, starts)
    torch.testing.assert_close(found.parameters, torch.ones(3, 2).double(), atol=1e-7, rtol=0)
    assert bool(found.converged.all())


def test_a_batch_of_curves_is_scipys():
    g = torch.Generator().manual_seed(0)
    t = torch.linspace(0, 3, 40, dtype=torch.float64).expand(4, 40)
    truth = torch.tensor([[2.0, 1.0, 0.3], [1.0, 2.0, 0.0], [3.0, 0.5, -1.0], [0.5, 1.5, 2.0]], dtype=torch.float64)
    y = torch.func.vmap(decay)(truth, t, torch.zeros_like(t)) + 0.02 * torch.randn(4, 40, generator=g)
    found = levenberg_marquardt(decay, torch.ones(4, 3), t, y)
    for k in range(4):
        arguments = (t[k].numpy(), y[k].numpy())
        theirs = scipy.optimize.least_squares(curve, np.ones(3), xtol=1e-14, ftol=1e-14, args=arguments)
        np.testing.assert_allclose(found.parameters[k].numpy(), theirs.x, rtol=1e-5)
        assert float(found.cost[k]) == pytest.approx(theirs.cost, rel=1e-9)


def test_an_own_jacobian_and_parameters_without_effect():
    # the third parameter moves nothing: it stays where it was
    found = levenberg_marquardt(
        lambda p: p[:2] - torch.tensor([1.0, 2.0]).double(),
        torch.tensor([[0.0, 0.0, 5.0]]),
        jacobian=lambda p: torch.eye(2, 3).double() + 0 * p[0],
    )
    torch.testing.assert_close(found.parameters, torch.tensor([[1.0, 2.0, 5.0]]).double(), atol=1e-9, rtol=0)


@pytest.mark.unchecked
def test_refuses_a_start_without_residuals():
    with pytest.raises(ValueError, match="finite residuals"):
        levenberg_marquardt(lambda p: p.log(), torch.tensor([[-1.0]]))
