"""PPO: on-policy experience, losses, answers and bad input."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning.callbacks import Callback

from oculi.data.sources import open_data
from oculi.learn.learner import Training, fit, seed_everything
from oculi.learn.protocols import returns
from oculi.rl.ppo import PPO
from oculi.system import predict
from oculi.types import Batch

TINY = {"observations": 4, "actions": 2, "hidden": 8, "steps": 8, "epochs": 2, "minibatches": 2}


def one_iteration(seed: int = 0):
    torch.manual_seed(seed)
    system = PPO(**TINY)
    splits = open_data("environment", id="CartPole-v1", count=3, seed=seed)
    return system, splits, list(system.collect(splits.environment, torch.Generator().manual_seed(seed)))


def test_an_iteration_hands_out_every_transition_once_per_epoch():
    _, _, batches = one_iteration()
    assert [len(batch) for batch in batches] == [12] * 4
    for epoch in (batches[:2], batches[2:]):
        seen = torch.cat([batch.transitions["observation"] for batch in epoch])
        assert len(seen.unique(dim=0)) == 24


def test_the_ratio_is_one_before_the_first_step():
    system, _, batches = one_iteration()
    seen = batches[0].transitions
    chosen = system(seen["observation"])[0].gather(1, seen["action"][:, None])[:, 0]
    torch.testing.assert_close((chosen - seen["log_probability"]).exp(), torch.ones(12))
    assert abs(system.loss(batches[0])["policy"].item()) < 1e-6  # advantages have zero mean


def test_experience_is_thrown_away():
    system, splits, batches = one_iteration()
    again = next(system.collect(splits.environment, torch.Generator().manual_seed(1))).transitions["observation"]
    before = torch.cat([batch.transitions["observation"] for batch in batches])
    assert not bool((again[:, None] == before[None]).all(-1).any())


def test_the_same_seed_gives_the_same_experience():
    first, second = one_iteration(3)[2], one_iteration(3)[2]
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(a.transitions[name], b.transitions[name]) for name in a.transitions)


def test_every_parameter_gets_a_gradient():
    system, _, batches = one_iteration()
    losses = system.loss(batches[0])
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for p in system.parameters())


def test_answers_are_distributions_and_training_runs():
    seed_everything(0)
    splits = open_data("environment", count=2)
    system = PPO(**TINY)
    learner = fit(system, Training(steps=6, clip=0.5), splits, progress=False)
    assert learner.steps_done == 6
    answers = predict(system, Batch(transitions={"observation": torch.zeros(3, 4)}))
    assert len(answers) == 3
    assert float(answers[0].probabilities.sum()) == pytest.approx(1)
    scores = returns.score(system, splits, "test")
    assert scores["mean_return"] >= 5
    assert scores == returns.score(system, splits, "test")


@pytest.mark.unchecked
def test_bad_input_is_named():
    _, splits, _ = one_iteration()
    with pytest.raises(ValueError, match="observations: the environment has 4, the system 6"):
        next(PPO(observations=6).collect(splits.environment, torch.Generator()))
    with pytest.raises(ValueError, match="batch: expected transitions"):
        PPO().loss(Batch(image=torch.zeros(1, 1, 1, 1)))
    with pytest.raises(ValueError, match="epochs: expected"):
        PPO(epochs=0)
    with pytest.raises(ValueError, match="clip: expected"):
        PPO(clip=0)


class Killed(Exception):
    """The machine goes down."""


class KillAt(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer, learner, *_):
        if learner.steps_done == self.step:
            raise Killed


@pytest.mark.parametrize("step", [8, 10], ids=["between iterations", "within one"])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, step):
    """Four batches an iteration; the episodes, what waits to be learned from and the random numbers go on."""

    def run(folder, resume=False, callbacks=()):
        seed_everything(0)
        system = PPO(**TINY)
        splits = open_data("environment", id="CartPole-v1", count=3, seed=0)
        options = Training(steps=20, optimizer="adam", lr=0.01, clip=0.5)
        fit(system, options, splits, folder, resume=resume, progress=False, checkpoint_every=2, callbacks=[*callbacks])
        return system, splits.environment

    straight, there = run(tmp_path / "straight")
    with pytest.raises(Killed):
        run(tmp_path / "killed", callbacks=[KillAt(step + 1)])
    resumed, here = run(tmp_path / "killed", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
    assert torch.equal(there.observation, here.observation)
