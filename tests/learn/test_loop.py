"""The loop as a whole: it learns shapes, equals itself by seed, scores samples and not batches, runs in bfloat16."""

import copy

import pytest
import torch
from torch import nn

from oculi.data.augment import Augment
from oculi.data.datasets import Splits, batches, training_batches
from oculi.data.digits import load as digits
from oculi.learn.evaluation import evaluate
from oculi.learn.learner import Training, fit, seed_everything
from oculi.learn.training import build, train
from oculi.system import predict
from oculi.types import Sample


def shapes(count: int, seed: int) -> list[Sample]:
    """Discs and bars, lying or standing, in 32 x 32 pixels, in any place and colour, on noise."""
    g = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    found = []
    for index in range(count):
        y, x, r = torch.rand(3, generator=g) * torch.tensor([12.0, 12, 4]) + torch.tensor([10.0, 10, 5])
        dy, dx = (rows - y).abs(), (columns - x).abs()
        inside = [dy**2 + dx**2 <= r**2, (dy <= r / 3) & (dx <= 2 * r), (dx <= r / 3) & (dy <= 2 * r)][index % 3]
        colour = 0.4 + 0.6 * torch.rand(3, 1, 1, generator=g)
        found.append(
            Sample(image=torch.where(inside, colour, 0.2 * torch.rand(3, 32, 32, generator=g)), label=index % 3)
        )
    return found


def watched(system) -> list[float]:
    """Every step's loss, as it comes."""
    seen, loss = [], system.loss

    def noted(batch):
        losses = loss(batch)
        seen.append(float(losses["cross_entropy"].detach()))
        return losses

    system.loss = noted
    return seen


def learn_shapes(steps: int = 200):
    seed_everything(0)
    system = build("resnet", num_classes=3, depths=[1, 1], width=8, in_channels=3, image_size=32, zero_init=False)
    data = Splits(shapes(400, 0), shapes(30, 1), shapes(150, 2), ["disc", "lying", "standing"])
    splits = data.prepared(system.contract)
    system.set_statistics(torch.full((3,), 0.5), torch.full((3,), 0.5))  # Normalize(.5, .5)
    options = Training(steps=steps, batch_size=4, optimizer="sgd", lr=0.01, momentum=0.9)
    seen = watched(system)
    fit(system, options, splits, progress=False)
    return system, splits, seen


def test_it_learns_shapes_and_says_the_same_twice():
    system, splits, losses = learn_shapes()  # two epochs
    assert sum(losses[-20:]) < sum(losses[:20]) / 2
    assert evaluate(system, splits)["accuracy"] >= 0.9
    again, _, same = learn_shapes()
    assert losses == same
    assert all(
        torch.equal(a, b) for a, b in zip(system.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_scores_count_samples_and_not_batches():
    """The last batch is smaller: the score is sum(score_b n_b) / sum(n_b), not the mean of the batches' scores."""
    system = build("resnet", tiny=True)
    splits = digits().prepared(system.contract)
    part = [splits.test[i] for i in range(130)]  # 128 and 2
    rights = []
    for batch in batches(part, 128):
        said = torch.stack([answer.probabilities for answer in predict(system, batch)]).argmax(1)
        rights.append((said == batch.label).double())
    weighted = sum(float(r.mean()) * len(r) for r in rights) / 130
    found = evaluate(system, Splits(part, part, part))["accuracy"]
    assert found == pytest.approx(weighted, abs=1e-12)


def test_evaluation_changes_nothing():
    system = build("resnet", tiny=True).train()
    before = copy.deepcopy(system.state_dict())
    splits = digits().prepared(system.contract)
    part = [splits.test[i] for i in range(20)]
    evaluate(system, Splits(part, part, part))
    assert system.training
    assert all(torch.equal(value, before[key]) for key, value in system.state_dict().items())
    assert all(p.grad is None for p in system.parameters())


def few_steps(precision: str, steps: int = 10):
    seed_everything(0)
    system = build("resnet", tiny=True)
    seen = watched(system)
    options = Training(steps=steps, batch_size=32, optimizer="sgd", lr=0.05, precision=precision)
    learner = fit(system, options, digits().prepared(system.contract), progress=False)
    return system, seen, learner


def test_bfloat16_stays_close_to_float32():
    """Products in bfloat16, weights and their updates in float32; its range needs no loss scaling."""
    kinds = set()

    def note(module, inputs, output):
        kinds.add(output.dtype)

    handle = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: note(module, inputs, output) if isinstance(module, nn.Conv2d) else None
    )
    try:
        half, low, learner = few_steps("bf16-mixed")
    finally:
        handle.remove()
    assert kinds == {torch.bfloat16}
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert learner.trainer.scaler is None
    full, high, _ = few_steps("32-true")
    assert all(torch.isfinite(value).all() for value in half.state_dict().values())
    assert low != high
    assert low == pytest.approx(high, rel=0.05)
    moved = [a.detach() - b.detach() for a, b in zip(half.parameters(), full.parameters(), strict=True)]
    size = [p.detach() for p in full.parameters()]
    assert torch.cat([m.flatten() for m in moved]).norm() < 0.02 * torch.cat([s.flatten() for s in size]).norm()


def draws(seed: int) -> dict[str, torch.Tensor]:
    """What is random, by where it comes from."""
    seed_everything(seed)
    system = build("resnet", tiny=True)
    data = digits().prepared(system.contract)
    batch = next(iter(training_batches(data.train, 8, 1, seed)))
    found = {"initialisation": next(system.parameters()).detach().clone(), "order of the batches": batch.image}
    found["augmentation"] = Augment(shift=0.2, noise=0.1, rotate=0.3, erase=0.5)(batch).image
    found["dropout"] = nn.Dropout(0.5)(torch.ones(64))
    generative = build("ddpm", tiny=True).eval()
    found["generation"] = generative.sample(2, torch.Generator().manual_seed(seed)).images
    views = build("simclr", tiny=True)
    small = digits().prepared(views.contract)
    batch = next(iter(training_batches(small.train, 8, 1, 0)))
    found["views"] = views.loss(batch)["nt_xent"].detach()
    return found


@pytest.fixture(scope="module")
def drawn():
    return draws(0), draws(0), draws(1)


@pytest.mark.parametrize(
    "source", ["initialisation", "order of the batches", "augmentation", "dropout", "generation", "views"]
)
def test_a_seed_decides_what_is_random(drawn, source):
    one, same, other = drawn
    assert torch.equal(one[source], same[source])
    assert not torch.equal(one[source], other[source])


def test_a_whole_run_is_decided_by_its_seed():
    def run(seed: int):
        keys = {"steps": 4, "warmup": 0, "seed": seed, "batch_size": 16}
        tiny = {"depths": [1], "width": 4}
        overrides = {f"training.{k}": v for k, v in keys.items()} | {f"arguments.{k}": v for k, v in tiny.items()}
        return train("resnet", overrides=overrides, progress=False).system.state_dict()

    one, same, other = run(3), run(3), run(4)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
