"""The protocol of pointmaps on answers whose quality is known."""

from __future__ import annotations

import pytest
import torch

from oculi.classical.dust3r import true_pointmaps
from oculi.data.sources import open_data
from oculi.input_contract import InputContract
from oculi.learn.evaluation import evaluate
from oculi.predictions import Pointmaps
from oculi.system import System

SIZE = 32


class Knows(System):
    """Answers with the truth in units of its own, every point off by up to `noise` metres, and surer where it is right."""

    answer = Pointmaps

    def __init__(self, noise: float = 0.0):
        super().__init__(InputContract(SIZE, SIZE))

    def predict(self, batch):
        points, _ = true_pointmaps(batch)
        g = torch.Generator().manual_seed(0)
        off = self.config["noise"] * torch.rand(points.shape[:-1], generator=g)
        direction = torch.nn.functional.normalize(torch.randn(points.shape, generator=g), dim=-1)
        said = 0.3 * (points + off[..., None] * direction)
        return [Pointmaps(p, c) for p, c in zip(said, 1 + 1 / (0.01 + off))]


def test_scores_of_known_answers():
    pairs = open_data("world_pairs", size=SIZE, train=1, validation=1, test=6)
    exact = evaluate(Knows(), pairs)
    assert exact["pointmap_error"] < 1e-5
    assert exact["depth_absrel"] < 1e-4
    assert exact["focal_error"] < 1e-3
    assert exact["rotation_error"] < 0.05
    assert exact["direction_error"] < 0.1
    assert exact["match_error"] < 1
    assert exact["matches_near"] > 0.9
    assert exact["mean_map_error"] > 0.02
    rough = evaluate(Knows(noise=1.0), pairs)
    assert rough["pointmap_error"] == pytest.approx(0.5 / 20, rel=0.3)
    assert rough["second_error"] == pytest.approx(rough["first_error"], rel=0.1)
    assert rough["confidence_auc"] > 0.95
    assert rough["rotation_error"] < 1
    assert rough["mean_map_error"] == pytest.approx(exact["mean_map_error"])
