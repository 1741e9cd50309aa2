r"""Principal component analysis: the orthogonal directions along which the data vary most.

    C = 1 / (n - 1) X^T X        X centred;  C v_i = l_i v_i,  l_1 >= l_2 >= ...
    y = V_k^T (x - mean)         projection on the k first;  x ~ mean + V_k y, the best k-dimensional linear account of x

The singular value decomposition X = U S V^T gives the same without forming C: l_i = s_i^2 / (n - 1). Truncating it is the
best approximation of any matrix of rank k: ||A - A_k||_F^2 = sum of s_i^2 over i > k (Eckart and Young).

A direction's sign means nothing; here its largest entry in size is positive.

    features   n x d;  components  k x d, rows of unit length;  variances  k

Pearson: On lines and planes of closest fit, 1901. Eckart, Young: The approximation of one matrix by another, 1936.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from oculi.classical.kmeans import digits


class PCA:
    """Projection on the first `components` directions.

    whiten: divide each coordinate by its standard deviation. method: by the SVD of the data or the covariance's eigenvectors.
    After `fit`: mean, components, variances, ratios (shares of the whole variance).
    """

    def __init__(self, components: int = 16, whiten: bool = False, method: str = "svd"):
        if components < 1:
            raise ValueError(f"components: expected at least 1, got {components}")
        if method not in ("svd", "covariance"):
            raise ValueError(f"method: expected svd or covariance, got {method!r}")
        self.count, self.whiten, self.method = components, whiten, method
        self.mean, self.components = torch.zeros(0), torch.zeros(0, 0)
        self.variances, self.ratios = torch.zeros(0), torch.zeros(0)

    def fit(self, features: Float[Tensor, "n d"]) -> PCA:
        """Find the directions. ValueError for NaN, or fewer points or columns than components."""
        if features.ndim != 2 or not bool(torch.isfinite(features).all()):
            raise ValueError(f"features: expected finite numbers n x d, got shape {tuple(features.shape)} or NaN")
        n, d = features.shape
        if n < 2 or self.count > min(n, d):
            raise ValueError(f"components: expected at most {min(n, d)} for {n} x {d} features, got {self.count}")
        x = features.double()
        self.mean = x.mean(0)
        x = x - self.mean
        if self.method == "svd":
            _, s, V = torch.linalg.svd(x, full_matrices=False)
            variances, directions = s.square() / (n - 1), V
        else:
            values, vectors = torch.linalg.eigh(x.T @ x / (n - 1))
            variances, directions = values.flip(0).clamp_min(0), vectors.T.flip(0)
        total = x.square().sum() / (n - 1)
        self.components, self.variances = _signed(directions[: self.count]), variances[: self.count]
        self.ratios = self.variances / total.clamp_min(1e-300)
        return self

    def transform(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Coordinates along the components."""
        projected = (features.double() - self._mean()) @ self.components.T
        return (projected / self._scale() if self.whiten else projected).to(features)

    def inverse_transform(self, projected: Float[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        """The points that coordinates stand for."""
        y = projected.double()
        return ((y * self._scale() if self.whiten else y) @ self.components + self._mean()).to(projected)

    def _scale(self) -> Tensor:
        return self.variances.sqrt().clamp_min(1e-12)

    def _mean(self) -> Tensor:
        if not len(self.mean):
            raise ValueError("transform: expected a call of fit before")
        return self.mean


def truncated_svd(
    matrix: Float[Tensor, "*b n d"], rank: int
) -> tuple[Float[Tensor, "*b n k"], Float[Tensor, "*b k"], Float[Tensor, "*b k d"]]:
    """U, s, V of the best approximation of rank `rank`, (U * s) @ V; batched. U * s is the reduced data."""
    if not 1 <= rank <= min(matrix.shape[-2:]):
        raise ValueError(f"rank: expected 1 to {min(matrix.shape[-2:])}, got {rank}")
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("matrix: expected finite numbers, got NaN or infinity")
    U, s, V = torch.linalg.svd(matrix, full_matrices=False)
    return U[..., :rank], s[..., :rank], V[..., :rank, :]


def _signed(directions: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return directions * torch.where(largest < 0, -1.0, 1.0)


def experiment(components: int = 16) -> dict[str, float]:
    """Handwritten digits: the share of variance that is kept, and how far the two ways to the components are apart."""
    x, _ = digits()
    by_svd, by_covariance = PCA(components).fit(x), PCA(components, method="covariance").fit(x)
    back = by_svd.inverse_transform(by_svd.transform(x))
    kept = 1 - (x - back).square().sum() / (x - x.mean(0)).square().sum()
    _, s, _ = truncated_svd(x - x.mean(0), components)
    return {
        "variance_kept": float(kept),
        "difference": float((by_svd.components - by_covariance.components).abs().max()),
        "svd_difference": float((s.square() / (len(x) - 1) / by_svd.variances - 1).abs().max()),
    }
