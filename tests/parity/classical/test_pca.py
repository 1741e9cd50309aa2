"""Principal components and truncated SVD beside scikit-learn's."""

import numpy as np
import pytest
import sklearn.decomposition
import torch

from oculi.classical.kmeans import digits
from oculi.classical.pca import PCA, experiment, truncated_svd


@pytest.mark.parametrize("method", ["svd", "covariance"])
@pytest.mark.parametrize("whiten", [False, True])
def test_digits_are_scikit_learns(method, whiten):
    x, _ = digits()
    ours = PCA(16, whiten, method).fit(x)
    theirs = sklearn.decomposition.PCA(16, whiten=whiten, svd_solver="full").fit(x.numpy())
    sign = np.sign((ours.components.numpy() * theirs.components_).sum(1, keepdims=True))
    np.testing.assert_allclose(ours.components.numpy(), sign * theirs.components_, atol=1e-8)
    np.testing.assert_allclose(ours.variances.numpy(), theirs.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(ours.ratios.numpy(), theirs.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(ours.transform(x).numpy(), theirs.transform(x.numpy()) * sign.T, atol=1e-6)
    back = theirs.inverse_transform(theirs.transform(x.numpy()))
    np.testing.assert_allclose(ours.inverse_transform(ours.transform(x)).numpy(), back, atol=1e-8)


def test_the_best_approximation():
    A = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s = torch.linalg.svdvals(A)
    for k in (1, 3, 5):
        U, kept, V = truncated_svd(A, k)
        off = (A - (U * kept[:, None]) @ V).square().sum((1, 2))
        torch.testing.assert_close(off, s[:, k:].square().sum(1), atol=1e-10, rtol=1e-10)
    theirs = sklearn.decomposition.TruncatedSVD(3, algorithm="arpack", random_state=0).fit_transform(A[0].numpy())
    U, kept, _ = truncated_svd(A[0], 3)
    np.testing.assert_allclose((U * kept).abs().numpy(), np.abs(theirs), atol=1e-8)


def test_experiment():
    figures = experiment()
    assert figures["variance_kept"] >= 0.8
    assert figures["difference"] < 1e-6
    assert figures["svd_difference"] < 1e-9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PCA(0), "components: expected at least 1"),
        (lambda: PCA(2, method="power"), "method"),
        (lambda: PCA(4).fit(torch.rand(3, 9)), "at most 3"),
        (lambda: PCA(1).fit(torch.full((3, 2), float("nan"))), "finite"),
        (lambda: PCA(1).transform(torch.rand(3, 2)), "call of fit"),
        (lambda: truncated_svd(torch.rand(3, 2), 3), "rank: expected 1 to 2"),
        (lambda: truncated_svd(torch.full((3, 2), float("inf")), 1), "finite"),
    ],
)
@pytest.mark.unchecked
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_colour_has_no_variance():
    found = PCA(2).fit(torch.ones(5, 3))
    assert found.variances.tolist() == [0.0, 0.0]
    assert found.ratios.tolist() == [0.0, 0.0]
