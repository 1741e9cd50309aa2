"""Latency and throughput: percentiles by hand, and what a larger batch does to a real system."""

import time

import numpy as np
import pytest
import torch

from oculi.learn.training import build
from oculi.metrics.latency import latency, throughput
from oculi.system import predict
from oculi.types import Batch


def test_percentiles():
    found = latency([0.1 * i for i in range(1, 102)])  # 101 durations: p50 is the 51st, p99 the 100th
    assert found["p50"] == pytest.approx(5.1)
    assert found["p90"] == pytest.approx(9.1)
    assert found["p95"] == pytest.approx(9.6)
    assert found["p99"] == pytest.approx(10.0)
    assert found["max"] == pytest.approx(10.1)
    assert found["mean"] == pytest.approx(5.1)


def test_percentiles_are_numpys_and_in_order():
    seconds = np.random.default_rng(0).gamma(2, 0.01, 500)
    found = latency(seconds.tolist())
    assert found["p99"] == pytest.approx(np.percentile(seconds, 99))
    assert found["p50"] <= found["p90"] <= found["p95"] <= found["p99"] <= found["max"]


def test_throughput_counts_over_wall_time():
    assert throughput(300, 1.5) == 200
    assert throughput(0, 1) == 0


@pytest.mark.unchecked
@pytest.mark.parametrize("bad", [[], [1.0, -1.0], [float("nan")], [[1.0]]])
def test_bad_durations_are_named(bad):
    with pytest.raises(ValueError, match="seconds"):
        latency(bad)


def test_bad_counts_are_named():
    with pytest.raises(ValueError, match="count"):
        throughput(-1, 1)
    with pytest.raises(ValueError, match="seconds"):
        throughput(1, 0)


def test_a_larger_batch_answers_more_and_later():
    """One caller that asks again when it is answered, with batches of 1 and of 64."""
    system = build("resnet", tiny=True).eval()
    waits, rates = {}, {}
    for size in (1, 64):
        batch = Batch(image=torch.rand(size, 1, 16, 16))
        predict(system, batch)
        seconds = []
        for _ in range(15):
            began = time.perf_counter()
            predict(system, batch)
            seconds.append(time.perf_counter() - began)
        waits[size], rates[size] = latency(seconds), throughput(size * len(seconds), sum(seconds))
    assert waits[64]["p50"] > waits[1]["p50"]
    assert rates[64] > 2 * rates[1]
