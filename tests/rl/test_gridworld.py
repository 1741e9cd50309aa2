"""GridWorld: transitions as the table says, and gymnasium's own check."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from oculi.rl.gridworld import GridWorld, transitions


def test_transitions_are_distributions():
    table = transitions(3, 0.2)
    torch.testing.assert_close(table.sum(-1), torch.ones(9, 4, dtype=torch.float64))
    torch.testing.assert_close(table[0, 1, :4], torch.tensor([0.1, 0.85, 0.0, 0.05], dtype=torch.float64))
    assert table[8, :, 8].tolist() == [1] * 4


def test_frequencies_match_the_table():
    world = GridWorld(3, 0.4)
    world.reset(seed=0)
    for state, action in ((0, 1), (4, 2), (5, 0)):
        counts = np.zeros(9)
        for _ in range(4000):
            world.state = state
            counts[world.step(action)[0].argmax()] += 1
        np.testing.assert_allclose(counts / 4000, world.table[state, action], atol=0.03)


@pytest.mark.filterwarnings("ignore::UserWarning")  # gymnasium's advice about rendering and registration
def test_gymnasium_accepts_it():
    check_env(GridWorld(), skip_render_check=True)


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="size: expected"):
        GridWorld(1)
    with pytest.raises(ValueError, match="slip: expected"):
        GridWorld(3, 1.5)
