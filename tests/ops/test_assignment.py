"""Bipartite matching: scipy's answer on rectangular tables, padding left out, no number no crash, exhaustive search."""

import builtins
import itertools

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from oculi.ops.assignment import assign


def test_total_cost_is_scipys_on_a_thousand_tables():
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        queries, truths = torch.randint(1, 9, (2,), generator=g).tolist()
        cost = torch.randn(50, queries, truths, generator=g)
        real = torch.rand(50, truths, generator=g) < 0.7
        found = assign(cost, real)
        assert bool(real[found.picture, found.truth].all())
        for index in range(50):
            rows, columns = linear_sum_assignment(cost[index][:, real[index]].numpy())
            mine = found.picture == index
            total = cost[index][found.query[mine], found.truth[mine]].sum()
            torch.testing.assert_close(total, cost[index][:, real[index]][rows, columns].sum())
            assert len(set(found.query[mine].tolist())) == int(mine.sum()) == min(queries, int(real[index].sum()))


def test_no_other_assignment_is_cheaper():
    cost = torch.rand(1, 5, 3, generator=torch.Generator().manual_seed(1))
    found = assign(cost, torch.ones(1, 3, dtype=torch.bool))
    least = min(sum(float(cost[0, q, j]) for j, q in enumerate(p)) for p in itertools.permutations(range(5), 3))
    assert float(cost[0, found.query, found.truth].sum()) == pytest.approx(least)


def test_what_is_no_number_is_matched_last():
    cost = torch.tensor([[[float("nan"), 1.0], [2.0, float("inf")], [5.0, 5.0]]])
    found = assign(cost, torch.ones(1, 2, dtype=torch.bool))
    assert dict(zip(found.truth.tolist(), found.query.tolist(), strict=True)) == {0: 1, 1: 0}


def test_nothing_to_match():
    found = assign(torch.zeros(2, 4, 1), torch.zeros(2, 1, dtype=torch.bool))
    assert [len(part) for part in found] == [0, 0, 0]


@pytest.mark.unchecked
def test_bad_input_is_named(monkeypatch):
    with pytest.raises(ValueError, match="cost, real"):
        assign(torch.zeros(4, 2), torch.ones(1, 2, dtype=torch.bool))
    real_import = builtins.__import__

    def without_scipy(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_scipy)
    with pytest.raises(ImportError, match=r"oculi\[science\]"):
        assign(torch.zeros(1, 2, 1), torch.ones(1, 1, dtype=torch.bool))
