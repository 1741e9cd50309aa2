"""Kalman filters beside filterpy's; the World's objects; boxes that keep their numbers."""

import importlib
import warnings

import numpy as np
import pytest
import torch

from oculi.classical.bayes_filter import (
    BayesFilter,
    Belief,
    BoxTracker,
    constant_velocity,
    experiment,
    log_likelihood,
    predict,
    predict_extended,
    update,
    update_extended,
)
from oculi.ops.boxes import from_centres
from oracles import oracle


def filterpys():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle("filterpy")
        return importlib.import_module("filterpy.kalman")


def measured(time: int = 30, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    line = torch.arange(time, dtype=torch.float64)[:, None] * torch.tensor([1.5, -0.7]).double() + 10
    return line + 2 * torch.randn(time, 2, generator=g, dtype=torch.float64)


def test_states_are_filterpys():
    theirs = filterpys().KalmanFilter(dim_x=4, dim_z=2)
    system = BayesFilter(2, 2.0, 0.1)
    beliefs = system.filter(measured())
    start = system.start(measured()[0])
    theirs.x, theirs.P = start.mean.numpy()[:, None].copy(), start.covariance.numpy().copy()
    theirs.F, theirs.Q, theirs.H, theirs.R = (m.numpy() for m in (system.F, system.Q, system.H, system.R))
    for belief, z in zip(beliefs[1:], measured()[1:]):
        theirs.predict()
        theirs.update(z.numpy())
        np.testing.assert_allclose(belief.mean.numpy(), theirs.x[:, 0], atol=1e-9)
        np.testing.assert_allclose(belief.covariance.numpy(), theirs.P, atol=1e-9)
    means = np.stack([b.mean.numpy() for b in beliefs])
    covariances = np.stack([b.covariance.numpy() for b in beliefs])
    expected = theirs.rts_smoother(means, covariances)
    smoothed = system.filter(measured(), smoothed=True)
    np.testing.assert_allclose(np.stack([b.mean.numpy() for b in smoothed]), expected[0], atol=1e-8)
    np.testing.assert_allclose(np.stack([b.covariance.numpy() for b in smoothed]), expected[1], atol=1e-8)


def radar(x):
    return torch.stack([torch.linalg.norm(x[:2]), torch.atan2(x[1], x[0])])


def test_the_extended_filter_is_filterpys():
    theirs = filterpys().ExtendedKalmanFilter(dim_x=4, dim_z=2)
    F, Q, _ = constant_velocity(2, 1.0, 0.1)
    belief = Belief(torch.tensor([10.0, 5.0, 1.0, 0.5]).double(), torch.eye(4).double())
    theirs.x, theirs.P = belief.mean.numpy()[:, None].copy(), belief.covariance.numpy().copy()
    theirs.F, theirs.Q, theirs.R = F.numpy(), Q.numpy(), np.diag([0.5, 0.01])
    slope = lambda x: torch.func.jacfwd(radar)(torch.from_numpy(x[:, 0])).numpy()  # noqa: E731
    value = lambda x: radar(torch.from_numpy(x[:, 0])).numpy()[:, None]  # noqa: E731
    R = torch.diag(torch.tensor([0.5, 0.01])).double()
    for z in torch.tensor([[12.0, 0.47], [13.3, 0.46], [14.2, 0.48]]).double():
        theirs.predict()
        theirs.update(z.numpy()[:, None], slope, value)
        belief = update_extended(predict_extended(belief, lambda x: F @ x, Q), z, radar, R)
        np.testing.assert_allclose(belief.mean.numpy(), theirs.x[:, 0], atol=1e-9)
        np.testing.assert_allclose(belief.covariance.numpy(), theirs.P, atol=1e-9)


def test_golden():
    one = torch.ones(1, 1).double()
    # as sure of the measurement as of the belief: half-way, with half the variance
    after = update(Belief(torch.zeros(1).double(), one), torch.ones(1).double(), one, one)
    assert after.mean.tolist() == [0.5]
    assert after.covariance.tolist() == [[0.5]]
    still = predict(after, one, 0 * one)
    assert still.mean.tolist() == [0.5]
    fit = log_likelihood(Belief(torch.zeros(1).double(), one), torch.ones(1).double(), one, one)
    assert float(fit) == pytest.approx(
        float(torch.distributions.Normal(0.0, 2**0.5).log_prob(torch.tensor(1.0))), abs=1e-6
    )


def test_batches_and_gaps():
    together = torch.stack([measured(seed=0), measured(seed=1)])
    system = BayesFilter()
    for k in range(2):
        torch.testing.assert_close(system.filter(together)[-1].mean[k], system.filter(together[k])[-1].mean)
    holes = measured()
    holes[10:15] = float("nan")
    beliefs = system.filter(holes)
    assert bool(torch.isfinite(beliefs[-1].mean).all())
    assert float(beliefs[14].covariance[0, 0]) > float(beliefs[9].covariance[0, 0])
    torch.testing.assert_close(beliefs[10].mean, system.F @ beliefs[9].mean)


def test_objects_of_the_world():
    figures = experiment(videos=6)
    assert figures["ratio"] <= 0.55
    assert figures["smoothed_ratio"] < figures["ratio"]


def test_boxes_keep_their_numbers():
    tracker = BoxTracker()
    g = torch.Generator().manual_seed(0)
    for t in range(20):
        centres = torch.tensor([[20.0 + 3 * t, 30.0, 16, 20], [100.0 - 3 * t, 34.0, 16, 20], [60.0, 90.0, 20, 20]])
        boxes = from_centres(centres + 0.5 * torch.randn(3, 4, generator=g))
        shown = [0, 1, 2] if t not in (8, 9) else [1, 2]  # the first is hidden for two frames
        order = torch.randperm(len(shown), generator=g)
        tracks = tracker.step(boxes[torch.tensor(shown)[order]])
        at = {int(n): b for n, b in zip(tracks.numbers, tracks.boxes)}
        if t == 0:
            names = {int(torch.tensor(shown)[order][d]): int(n) for n, d in zip(tracks.numbers, tracks.detection)}
        assert len(at) == 3
        for k in range(3):
            assert float((at[names[k]] - from_centres(centres[k]).double()).abs().max()) < (6 if t else 3)
    assert len(tracker.step(torch.zeros(0, 4)).numbers) == 3
    for _ in range(3):
        last = tracker.step(torch.zeros(0, 4))
    assert len(last.numbers) == 0
    assert len(BoxTracker().step(torch.zeros(0, 4)).numbers) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BayesFilter(axes=0), "axes"),
        (lambda: BayesFilter(noise=0.0), "noise"),
        (lambda: BayesFilter(acceleration=-1.0), "acceleration"),
        (lambda: BayesFilter().filter(torch.zeros(5, 3)), "x time x 2"),
        (lambda: BayesFilter().filter(torch.full((5, 2), float("nan"))), "without gaps"),
        (lambda: BoxTracker(0.0), "overlap"),
        (lambda: BoxTracker(patience=-1), "patience"),
        (lambda: BoxTracker().step(torch.full((1, 4), float("nan"))), "finite"),
    ],
)
@pytest.mark.unchecked
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
