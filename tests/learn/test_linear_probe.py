"""The linear probe: separable features are read perfectly, noise by chance; draws are balanced; baselines are fresh."""

import numpy as np
import pytest
import torch

from oculi.data.datasets import Splits
from oculi.learn.protocols.linear_probe import few, fresh, probe, score
from oculi.selfsup.simclr import SimCLR
from oculi.types import Sample


def test_separable_features_are_read_perfectly_and_noise_is_not():
    generator = np.random.default_rng(0)
    label = np.arange(200) % 4
    separable = np.eye(4)[label] + generator.normal(0, 0.05, (200, 4))
    assert probe(separable[:100], label[:100], separable[100:], label[100:]) == 1
    noise = generator.normal(size=(200, 4))
    assert probe(noise[:100], label[:100], noise[100:], label[100:]) < 0.5


def test_draws_hold_as_many_of_each_class():
    label = np.repeat([0, 1, 2], [5, 9, 3])
    draws = few(label, 2, 4)
    assert all(np.bincount(label[draw]).tolist() == [2, 2, 2] for draw in draws)
    assert all(len(set(draw)) == 6 for draw in draws)
    assert any(set(draws[0]) != set(draw) for draw in draws[1:])
    with pytest.raises(ValueError, match="at least 4 samples of each class"):
        few(label, 4, 1)


def test_scores_and_leaves_the_random_state_alone():
    torch.manual_seed(1)
    system = SimCLR([1], 4, 4, in_channels=1, image_size=8).eval()
    samples = [Sample(image=torch.full((1, 8, 8), float(i % 2)), label=i % 2) for i in range(12)]
    state = torch.get_rng_state()
    figures = score(system, Splits(samples, samples, samples), "test")
    assert torch.equal(state, torch.get_rng_state())
    assert figures["probe_accuracy"] == figures["full_probe_accuracy"] == 1
    assert figures["gain"] == figures["probe_accuracy"] - figures["random_accuracy"]
    random = fresh(system, Splits(samples, samples, samples))
    assert random.config == system.config
    assert not random.training
    assert not torch.equal(random.encoder.stem[0].weight, system.encoder.stem[0].weight)
