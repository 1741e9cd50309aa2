r"""Agglomerative clustering: every point a cluster, the two nearest merged again and again; the tree is the answer.

After i and j have merged, the distance of the new cluster to any other k follows from what is known (Lance and Williams),
with sizes n and d the distances before:

    single     min(d_ik, d_jk)
    complete   max(d_ik, d_jk)
    average    (n_i d_ik + n_j d_jk) / (n_i + n_j)
    ward       sqrt(((n_i + n_k) d_ik^2 + (n_j + n_k) d_jk^2 - n_k d_ij^2) / (n_i + n_j + n_k))

Ward's merges raise the sum of squares within clusters least. The tree is a table as scipy's: row t merges clusters a < b at
a distance into cluster n + t of so many points. Cutting it keeps the first n - k merges.

Sneath 1957 (single); Sørensen 1948 (complete); Sokal, Michener 1958 (average); Ward 1963.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

LINKAGES = ("single", "complete", "average", "ward")


def linkage(features: Float[Tensor, "n d"], method: str = "ward") -> Float[Tensor, "merges 4"]:
    """The tree by Euclidean distance, float64: rows of (a, b, distance, points), in order of distance."""
    if method not in LINKAGES:
        raise ValueError(f"method: expected one of {', '.join(LINKAGES)}, got {method!r}")
    if features.ndim != 2 or len(features) < 2 or not bool(torch.isfinite(features).all()):
        raise ValueError(f"features: expected at least 2 finite points n x d, got shape {tuple(features.shape)} or NaN")
    n = len(features)
    x = features.double()
    d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    size, name = torch.ones(n, dtype=torch.float64), torch.arange(n)
    nearest, which = d.min(1)
    tree = torch.zeros(n - 1, 4, dtype=torch.float64)
    for t in range(n - 1):
        i = int(nearest.argmin())
        j = int(which[i])
        apart, joined = float(d[i, j]), size[i] + size[j]
        row = _updated(d[i], d[j], apart, size[i], size[j], size, method)
        tree[t] = torch.tensor([*sorted((int(name[i]), int(name[j]))), apart, float(joined)])
        row[i] = row[j] = torch.inf
        gone = torch.isinf(d[i]) & (torch.arange(n) != i)
        row = torch.where(gone, torch.inf, row)
        d[i], d[:, i] = row, row
        d[j], d[:, j] = torch.inf, torch.inf
        size[i], name[i] = joined, n + t
        # nearest neighbours: those that pointed at i or j look anew, all others compare with the merged cluster
        stale = (which == i) | (which == j)
        stale[i] = True
        better = row < nearest
        nearest, which = torch.where(better, row, nearest), torch.where(better, i, which)
        again = stale.nonzero()[:, 0]
        nearest[again], which[again] = d[again].min(1)
        nearest[j] = torch.inf
    return tree


def _updated(
    to_i: Tensor, to_j: Tensor, apart: float, n_i: Tensor, n_j: Tensor, size: Float[Tensor, " n"], method: str
) -> Float[Tensor, " n"]:
    """Distances of the merged cluster to all."""
    if method == "single":
        return torch.minimum(to_i, to_j)
    if method == "complete":
        return torch.maximum(to_i, to_j)
    if method == "average":
        return (n_i * to_i + n_j * to_j) / (n_i + n_j)
    square = (n_i + size) * to_i.square() + (n_j + size) * to_j.square() - size * apart**2
    return (square / (n_i + n_j + size)).clamp_min(0).sqrt()


def cut(tree: Float[Tensor, "merges 4"], clusters: int) -> Int[Tensor, " n"]:
    """Labels 0 .. clusters - 1 of the points when so many clusters are left, numbered by their first point."""
    n = len(tree) + 1
    if not 1 <= clusters <= n:
        raise ValueError(f"clusters: expected 1 to {n}, got {clusters}")
    parent = torch.arange(2 * n - 1)
    made = torch.arange(n - clusters)
    for column in (0, 1):
        parent[tree[made, column].long()] = n + made
    while not torch.equal(parent, parent[parent]):  # halves the way to the root each time
        parent = parent[parent]
    _, label = parent[:n].unique(return_inverse=True)
    first = torch.full((clusters,), n).scatter_reduce(0, label, torch.arange(n), "amin")
    return first.argsort().argsort()[label]
