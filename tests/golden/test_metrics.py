"""Worked numbers of scores."""

import pytest
import torch

from oculi.metrics.detection import eleven_point


def test_eleven_point_average_precision():
    precision = torch.tensor([1, 0.99, 0.9, 0.85, 0.75, 0.7, 0.68, 0.65, 0.64, 0.6, 0.1])
    assert eleven_point(torch.arange(11).double() / 10, precision) == pytest.approx(0.714545, abs=1e-6)
