"""Linear SVM against scikit-learn's, by the conditions of the optimum, and by hand."""

import pytest
import torch

from oculi.classify.linear_svm import LinearSVM


def clouds(n=240, features=12, seed=0, apart=0.5):
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 3, (n,), generator=g)
    centres = torch.randn(3, features, generator=g) * apart
    return centres[label] + torch.randn(n, features, generator=g), torch.nn.functional.one_hot(label, 3).bool()


@pytest.mark.parametrize("cost", [0.01, 1.0])
def test_objective_and_decisions_equal_sklearns(cost):
    svm = pytest.importorskip("sklearn.svm")
    x, positive = clouds()
    ours = LinearSVM(cost).fit(x, positive)
    for k in range(3):
        theirs = svm.LinearSVC(C=cost, loss="hinge", tol=1e-6, max_iter=200_000).fit(x.numpy(), positive[:, k].numpy())
        other = LinearSVM(cost)
        other.normal, other.offset = torch.tensor(theirs.coef_.T).float(), torch.tensor(theirs.intercept_).float()
        mine, best = ours.objective(x, positive)[k], other.objective(x, positive[:, k : k + 1])[0]
        assert abs(float(mine / best) - 1) < 1e-3
        same = (ours.decide(x)[:, k] > 0) == torch.tensor(theirs.predict(x.numpy()))
        assert same.float().mean() >= 0.99


def test_two_points_by_hand():
    """Points at -1 and 3 on a line: w = 1/2, b = -1/2, and the objective is half of w^2 + b^2 where C is large."""
    machine = LinearSVM(100.0, tolerance=1e-8).fit(torch.tensor([[-1.0], [3.0]]), torch.tensor([[False], [True]]))
    weight = torch.cat([machine.normal[:, 0], machine.offset])
    # the least norm with w.x >= 1 for x = (3, 1) and (1, -1), the second turned round: on both borders
    torch.testing.assert_close(weight, torch.linalg.solve(torch.tensor([[3.0, 1.0], [1.0, -1.0]]), torch.ones(2)))
    assert float(machine.objective(torch.tensor([[-1.0], [3.0]]), torch.tensor([[False], [True]]))) == pytest.approx(
        0.25
    )


def test_a_small_cost_leaves_the_normal_at_the_difference_of_sums():
    """Every example is inside the margin, so each multiplier is C: w = C sum y x."""
    x, positive = clouds(40)
    machine = LinearSVM(1e-4, bias=0.0, tolerance=1e-9).fit(x, positive[:, :1])
    expected = 1e-4 * (torch.where(positive[:, :1], 1.0, -1.0) * x).sum(0)
    torch.testing.assert_close(machine.normal[:, 0], expected)
    assert float(machine.offset) == 0


def test_unused_examples_do_not_count():
    x, positive = clouds()
    used = torch.rand(positive.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    ours = LinearSVM(0.1, tolerance=1e-6).fit(x, positive, used)
    for k in range(3):
        alone = LinearSVM(0.1, tolerance=1e-6).fit(x[used[:, k]], positive[used[:, k], k : k + 1])
        torch.testing.assert_close(ours.normal[:, k], alone.normal[:, 0], rtol=0, atol=2e-3)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="cost"):
        LinearSVM(0.0)
    with pytest.raises(ValueError, match=r"positive.*machine 1"):
        LinearSVM().fit(torch.rand(3, 2), torch.tensor([[True, True], [False, True], [True, True]]))
