"""K-means, hierarchical clustering and self-organising maps beside scikit-learn's, scipy's and MiniSom's."""

import numpy as np
import pytest
import scipy.cluster.hierarchy
import sklearn.cluster
import sklearn.metrics
import torch

from oculi.classical.hierarchical_clustering import LINKAGES, cut, linkage
from oculi.classical.kmeans import KMeans, digits, experiment
from oculi.classical.self_organizing_map import SelfOrganizingMap
from oculi.metrics.clustering import normalised_mutual_information
from oracles import oracle


def blobs(n: int = 120, d: int = 3, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    middles = 4 * torch.randn(4, d, generator=g, dtype=torch.float64)
    return middles[torch.arange(n) % 4] + torch.randn(n, d, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_same_start_gives_scikit_learns_answer(seed):
    x = blobs(seed=seed)
    start = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:5]]
    ours = KMeans(5, 1, tolerance=0.0).fit(x, start)
    theirs = sklearn.cluster.KMeans(5, init=start.numpy(), n_init=1, tol=0, algorithm="lloyd").fit(x.numpy())
    np.testing.assert_allclose(ours.centers.numpy(), theirs.cluster_centers_, atol=1e-9)
    assert ours.labels.tolist() == theirs.labels_.tolist()
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-10)
    assert all(b <= a + 1e-9 for a, b in zip(ours.history, ours.history[1:]))


def test_digits_as_well_as_scikit_learns_best_of_ten():
    x, _ = digits()
    ours = KMeans(10, 10).fit(x)
    theirs = sklearn.cluster.KMeans(10, n_init=10, random_state=0).fit(x.numpy())
    assert ours.inertia <= 1.01 * theirs.inertia_
    figures = experiment(starts=4)
    assert figures["nmi"] >= 0.7
    assert figures["largest_rise"] <= 1e-3


def test_a_centre_without_points_gets_some():
    x = torch.cat([torch.zeros(5, 2), torch.ones(5, 2), torch.tensor([[9.0, 9.0]])])
    start = torch.tensor([[0.0, 0], [100.0, 100], [1, 1]])
    found = KMeans(3, 1).fit(x, start)
    assert found.inertia == pytest.approx(0.0, abs=1e-9)
    assert found.labels.bincount().tolist() == [5, 1, 5]


def test_prediction_and_seeds():
    x = blobs()
    system = KMeans(4, 3)
    found = system.fit(x)
    assert torch.equal(system.predict(x), found.labels)
    assert torch.equal(KMeans(4, 3).fit(x).labels, found.labels)


@pytest.mark.parametrize("method", LINKAGES)
@pytest.mark.parametrize("n", [2, 5, 60])
def test_trees_are_scipys(method, n):
    x = blobs(n)
    tree = linkage(x, method)
    theirs = scipy.cluster.hierarchy.linkage(x.numpy(), method)
    np.testing.assert_allclose(tree.numpy(), theirs, atol=1e-9)
    for clusters in {1, 2, n}:
        expected = scipy.cluster.hierarchy.fcluster(theirs, clusters, "maxclust")
        assert normalised_mutual_information(cut(tree, clusters), torch.from_numpy(expected).long()) == 1.0
        assert cut(tree, clusters).unique().tolist() == list(range(clusters))


def test_mutual_information_is_scikit_learns():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 4, (50,), generator=g), torch.randint(0, 6, (50,), generator=g)
    expected = sklearn.metrics.normalized_mutual_info_score(a.numpy(), b.numpy())
    assert normalised_mutual_information(a, b) == pytest.approx(expected, abs=1e-9)
    assert normalised_mutual_information(a * 0, b * 0) == 1.0


def test_maps_are_minisoms():
    minisom = oracle("minisom")
    x = blobs(60)
    start = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = minisom.MiniSom(4, 5, 3, sigma=1.5, learning_rate=0.5)
    theirs._weights = start.numpy().copy()
    theirs.train(x.numpy(), 100)
    ours = SelfOrganizingMap(4, 5, rate=0.5, radius=1.5).fit(x, 100, start, shuffle=False)
    np.testing.assert_allclose(ours.prototypes.numpy(), theirs.get_weights(), atol=1e-9)
    assert ours.quantization_error(x) == pytest.approx(theirs.quantization_error(x.numpy()), abs=1e-9)
    assert [tuple(w) for w in ours.winners(x)[:, 0].tolist()] == [tuple(map(int, theirs.winner(p))) for p in x.numpy()]


def test_a_map_of_a_sheet_unfolds():
    x = torch.rand(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    som = SelfOrganizingMap(5, 5, radius=2.5).fit(x, 2000)
    assert som.quantization_error(x) < 0.15
    assert som.topographic_error(x) < 0.15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: KMeans(0), "clusters, starts, steps"),
        (lambda: KMeans(3).fit(torch.ones(9, 2)), "3 different points"),
        (lambda: KMeans(2).fit(torch.full((9, 2), float("nan"))), "finite"),
        (lambda: KMeans(2).fit(torch.rand(9, 2), torch.rand(3, 2)), "start: expected 2"),
        (lambda: KMeans(2).predict(torch.rand(9, 2)), "call of fit"),
        (lambda: linkage(torch.rand(4, 2), "median"), "method: expected"),
        (lambda: linkage(torch.rand(1, 2)), "at least 2"),
        (lambda: cut(linkage(torch.rand(4, 2)), 5), "clusters: expected 1 to 4"),
        (lambda: SelfOrganizingMap(0, 3), "rows, columns"),
        (lambda: SelfOrganizingMap().winners(torch.rand(3, 2)), "call of fit"),
        (lambda: SelfOrganizingMap().fit(torch.full((3, 2), float("nan"))), "finite"),
    ],
)
@pytest.mark.unchecked
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
