"""Cubics against numpy's roots, and the determinant of a pencil."""

import numpy as np
import torch

from oculi.geometry.polynomials import cofactors, cubic_roots, pencil_determinant


def test_cubics_have_numpys_roots():
    coefficients = torch.randn(200, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    roots, real = cubic_roots(coefficients)
    for row, found, count in zip(coefficients.numpy(), roots, real):
        theirs = np.roots(row)
        theirs = np.sort(theirs[np.abs(theirs.imag) < 1e-9].real)
        np.testing.assert_allclose(found[count].sort().values.numpy(), theirs, rtol=1e-8, atol=1e-8)


def test_a_quadratic_is_no_cubic():
    assert not cubic_roots(torch.tensor([0.0, 1, -3, 2]))[1].any()


def test_a_triple_root():
    roots, real = cubic_roots(torch.tensor([1.0, -3, 3, -1], dtype=torch.float64))
    assert real[0]
    assert abs(float(roots[0]) - 1) < 1e-4


def test_cofactors_and_pencil():
    A, B = torch.randn(2, 5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind(0)
    torch.testing.assert_close(cofactors(A), torch.linalg.det(A)[:, None, None] * torch.linalg.inv(A).transpose(1, 2))
    c = pencil_determinant(A, B)
    for x in (-1.0, 0.5, 2.0):
        powers = torch.tensor([x**3, x**2, x, 1], dtype=torch.float64)
        torch.testing.assert_close(c @ powers, torch.linalg.det(x * A + B))
