r"""Latency and throughput: what a user waits, and what a machine gets done.

Percentiles interpolate linearly between order statistics (numpy's default). p99 of few requests is their maximum in
disguise: below 100 requests it says little. Throughput is measured over wall time at a stated concurrency; it is not
1 / latency, since requests overlap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def latency(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p90, p95, p99, mean and max of the durations, in their own unit.

    >>> latency([0.2, 0.1, 0.3])["p50"]
    0.2
    """
    values = np.asarray(seconds, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"seconds: expected at least one duration in a row, got shape {values.shape}")
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("seconds: expected finite durations of at least 0")
    found = {f"p{q}": float(np.percentile(values, q)) for q in (50, 90, 95, 99)}
    return {**found, "mean": float(values.mean()), "max": float(values.max())}


def throughput(count: int, seconds: float) -> float:
    """Answers per second of wall time.

    >>> throughput(300, 1.5)
    200.0
    """
    if count < 0:
        raise ValueError(f"count: expected at least 0, got {count}")
    if not seconds > 0:
        raise ValueError(f"seconds: expected more than 0, got {seconds}")
    return count / seconds
