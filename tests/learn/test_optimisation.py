"""Training craft: schedules and optimisers are torch's, layers freeze and thaw, weights are averaged, runs stop in time."""

from dataclasses import replace

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.optim import lr_scheduler as torchs

from oculi.catalogue import BadRecipe, recipe
from oculi.data.augment import smaller
from oculi.data.datasets import Splits, training_batches
from oculi.data.digits import load as digits
from oculi.input_contract import InputContract
from oculi.learn.kept_weights import Best, settle_batch_norms, validation_loss
from oculi.learn.learner import Training, fit, seed_everything
from oculi.learn.muon import nearest_orthogonal
from oculi.learn.optimisation import Freezing, layer_groups, layer_rates, optimizer_for, schedule_for
from oculi.learn.training import build, training_options
from oculi.predictions import Classes
from oculi.system import Phase, System
from oculi.types import Batch, Losses, Sample


def rates(training, steps):
    """The learning rates of the steps."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=training.lr)
    schedule, found = schedule_for(optimizer, training, steps), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_schedules_by_hand():
    assert rates(Training(lr=1.0, schedule="step", period=2, gamma=0.5), 6) == pytest.approx(
        [1, 1, 0.5, 0.5, 0.25, 0.25]
    )
    milestones = Training(lr=1.0, schedule="multistep", milestones=[1, 4], gamma=0.1)
    assert rates(milestones, 6) == pytest.approx([1, 0.1, 0.1, 0.1, 0.01, 0.01])
    assert rates(Training(lr=1.0, schedule="linear"), 4) == pytest.approx([1, 0.75, 0.5, 0.25])
    again = rates(Training(lr=1.0, schedule="restarts", period=2), 6)
    assert again == pytest.approx([1, 0.5, 1, 0.5, 1, 0.5])


@pytest.mark.parametrize("options", [{"schedule": "step", "period": 3}, {"schedule": "linear"}])
def test_warm_up_comes_first(options):
    plain = rates(Training(lr=1.0, **options), 6)
    warm = rates(Training(lr=1.0, warmup=4, **options), 10)
    assert warm == pytest.approx([0.25, 0.5, 0.75, 1.0, *plain])


def test_milestones_count_from_the_first_step():
    warm = rates(Training(lr=1.0, warmup=2, schedule="multistep", milestones=[3, 5]), 7)
    assert warm == pytest.approx([0.5, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_plateau_reduces_after_more_than_patience_bad_looks():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = schedule_for(optimizer, Training(lr=0.1, schedule="plateau", validate=1, patience=2), 10)
    assert isinstance(schedule, torchs.ReduceLROnPlateau)
    found = []
    for loss in (1.0, 1.0, 1.0, 1.0, 0.5):
        schedule.step(loss)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01])


def path(training, steps=30):
    w = nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
    optimizer = optimizer_for(Phase("all", [w], lambda batch: {}), training)
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        w.grad = torch.randn(5, generator=generator, dtype=torch.float64)
        found.append((w.detach().clone(), w.grad))
        optimizer.step()
    return found, w.detach()


def test_adagrad_by_hand():
    found, last = path(Training(optimizer="adagrad", lr=0.1))
    w, total = found[0][0], 0.0
    for _, g in found:
        total = total + g**2
        w = w - 0.1 * g / (total.sqrt() + 1e-10)
    torch.testing.assert_close(w, last, rtol=0, atol=1e-12)


def test_adadelta_by_hand():
    """No rate of its own is needed: the numerator is the root mean square of past updates."""
    found, last = path(Training(optimizer="adadelta", lr=1.0))
    w, squares, updates = found[0][0], 0.0, torch.zeros(5, dtype=torch.float64)
    for _, g in found:
        squares = 0.9 * squares + 0.1 * g**2
        change = (updates + 1e-6).sqrt() / (squares + 1e-6).sqrt() * g
        updates, w = 0.9 * updates + 0.1 * change**2, w - change
    torch.testing.assert_close(w, last, rtol=0, atol=1e-12)


def test_weight_decay_shrinks_in_proportion():
    """w <- w - lr g - lr lambda w, where the gradient is zero."""
    w = nn.Parameter(torch.tensor([[2.0, -4.0]]))
    optimizer = optimizer_for(Phase("all", [w], lambda b: {}), Training(optimizer="sgd", lr=0.1, weight_decay=0.5))
    w.grad = torch.zeros(1, 2)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.tensor([[1.9, -3.8]]))


class Slope(System):
    """A loss whose gradient is (3, -5)."""

    answer = Classes

    def __init__(self):
        super().__init__(InputContract(1, 1, 1))
        self.w = nn.Parameter(torch.zeros(2))

    def loss(self, batch: Batch) -> Losses:
        return {"slope": (self.w * torch.tensor([3.0, -5.0])).sum()}


def test_derivatives_are_capped_one_by_one():
    data, system = [Sample(image=torch.zeros(1, 1, 1), label=0)], Slope()
    options = Training(steps=1, batch_size=1, optimizer="sgd", lr=1.0, momentum=0.0, clip_value=1.0)
    fit(system, options, Splits(data, data, data), progress=False)
    assert system.w.tolist() == [-1.0, 1.0]


def make(**options):
    seed_everything(0)
    system = build("resnet", tiny=True)
    defaults = {"steps": 8, "batch_size": 16, "optimizer": "sgd", "lr": 0.05}
    return system, digits().prepared(system.contract), Training(**{**defaults, **options})


def test_groups_are_the_layers_in_order_and_hold_every_parameter_once():
    system = build("resnet", tiny=True)
    groups = layer_groups(system)
    assert [group.name for group in groups] == ["stem", "stages.0", "stages.1", "head"]
    held = [p for group in groups for p in group.parameters]
    assert len(held) == len(set(held)) == len(list(system.parameters()))
    vit = build("vit", tiny=True)  # whose class token and positions stand in no module
    assert {p for group in layer_groups(vit) for p in group.parameters} == set(vit.parameters())
    assert layer_groups(Slope())[0].parameters[0].shape == (2,)


def test_rates_fall_towards_the_early_layers():
    system, _, training = make(lr=1.0, lr_decay=0.5, weight_decay=0.1)
    optimizer = optimizer_for(system.phases()[0], training, layer_rates(system, 0.5))
    found = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    wanted = {"stem": 0.125, "stages.0": 0.25, "stages.1": 0.5, "head": 1.0}
    assert len(found) == len(list(system.parameters()))
    for group in layer_groups(system):
        assert {found[p] for p in group.parameters} == {wanted[group.name]}
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0, 0.1}


def test_a_small_step_is_scaled_by_the_layers_rate():
    """One step of plain descent: each group moves by its own share of what it would have moved."""
    moved = []
    for decay in (1.0, 0.5):
        system, splits, training = make(steps=1, momentum=0.0, lr_decay=decay)
        before = [p.detach().clone() for p in system.parameters()]
        fit(system, training, splits, progress=False)
        moved.append([p.detach() - b for p, b in zip(system.parameters(), before, strict=True)])
    shares = [layer_rates(system, 0.5)[p] for p in system.parameters()]
    for whole, part, share in zip(*moved, shares, strict=True):
        torch.testing.assert_close(part, share * whole, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("freeze", "learning"), [(-1, ["head"]), (2, ["stages.1", "head"])])
def test_frozen_layers_are_bit_identical_after_training(freeze, learning):
    system, splits, training = make(freeze=freeze, weight_decay=0.1, optimizer="adamw")
    before = {key: value.clone() for key, value in system.state_dict().items()}
    fit(system, training, splits, progress=False)
    for key, value in system.state_dict().items():
        if not key.startswith("pixel"):
            assert torch.equal(value, before[key]) != any(key.startswith(name) for name in learning), key
    assert all(p.requires_grad for p in system.parameters())


def test_eval_alone_freezes_nothing():
    system, splits, _ = make()
    system.eval().loss(next(iter(training_batches(splits.train, 4, 1, 0))))["cross_entropy"].backward()
    assert all(p.grad is not None for p in system.parameters())


def test_layers_thaw_one_after_the_other():
    system = build("resnet", tiny=True).train()
    freezing = Freezing(system, Training(freeze=-1, unfreeze=10))
    learning = []
    for step in (0, 9, 10, 20, 30, 50):
        freezing(step)
        groups = layer_groups(system)
        learning.append([g.name for g in groups if all(p.requires_grad for p in g.parameters)])
        assert [g.name for g in groups if g.module.training] == learning[-1]
    everything = ["stem", "stages.0", "stages.1", "head"]
    assert learning == [["head"], ["head"], everything[2:], everything[1:], everything, everything]
    system, splits, training = make(freeze=-1, unfreeze=2, steps=8)
    before = [p.detach().clone() for p in system.parameters()]
    fit(system, training, splits, progress=False)
    assert not any(torch.equal(p, b) for p, b in zip(system.parameters(), before, strict=True))


def test_swa_is_the_mean_of_the_last_weights_and_batch_norms_are_settled():
    last = []

    def watch(system):
        def on_step_end(phase, step):
            last.append([p.detach().clone() for p in system.parameters()])

        system.on_step_end = on_step_end

    system, splits, training = make(steps=8, swa=0.5)
    watch(system)
    fit(system, training, splits, progress=False)
    means = [torch.stack(values).double().mean(0) for values in zip(*last[4:], strict=True)]
    for p, mean in zip(system.parameters(), means, strict=True):
        torch.testing.assert_close(p.detach().double(), mean, rtol=0, atol=1e-6)
    again, _, _ = make()
    again.load_state_dict(system.state_dict())
    settle_batch_norms(again, splits.train, 16)
    for key, value in system.state_dict().items():
        torch.testing.assert_close(value, again.state_dict()[key])


def test_validation_loss_weights_samples_alike_and_leaves_no_trace():
    system, splits, _ = make()
    system.stem.eval()
    state = torch.get_rng_state()
    few = [splits.validation[k] for k in range(7)]
    found = [validation_loss(system, few, size) for size in (7, 3, 1)]
    assert found == pytest.approx([found[0]] * 3, rel=1e-5)
    assert torch.equal(torch.get_rng_state(), state)
    assert system.training
    assert not system.stem.training


def test_training_stops_when_validation_no_longer_improves_and_keeps_the_best(tmp_path):
    system, splits, training = make(steps=200, lr=0.5, momentum=0.0, validate=4, stop=2)
    small = replace(
        splits, train=[splits.train[k] for k in range(32)], validation=[splits.validation[k] for k in range(64)]
    )
    learner = fit(system, training, small, tmp_path, progress=False)
    rows = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()[1:]]
    seen = [float(value) for _, name, value in rows if name == "validation/loss"]
    assert learner.steps_done == 4 * len(seen) < 200
    assert min(seen) == seen[-3] < min(seen[-2:])
    assert validation_loss(system, small.validation, 16) == pytest.approx(min(seen), rel=1e-4)


def test_best_without_patience_keeps_nothing():
    best, system = Best(0), build("resnet", tiny=True)
    assert not any(best.shows(loss, system) for loss in (1.0, 2.0, 3.0))
    assert not best.weights


def test_plateau_in_training_lowers_the_rate(tmp_path):
    system, splits, training = make(steps=12, lr=1e-6, freeze=-1, schedule="plateau", validate=2, patience=1, gamma=0.5)
    small = replace(splits, validation=[splits.validation[k] for k in range(16)])
    learner = fit(system, training, small, tmp_path, progress=False)
    assert learner.lr_schedulers().get_last_lr()[0] < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "multistep", "milestones": [2, 5], "warmup": 1, "swa": 0.5},
        {"schedule": "plateau", "validate": 2, "stop": 9, "patience": 0, "freeze": 1, "unfreeze": 4},
    ],
)
def test_a_resumed_run_gives_the_same_bits(options, tmp_path):
    results = []
    for parts in ((8,), (4, 8)):
        folder = tmp_path / str(len(parts))
        for until in parts:
            system, splits, training = make(steps=8, **options)
            small = replace(splits, validation=[splits.validation[k] for k in range(16)])
            stop = until < 8

            class Kill(Callback):
                def on_train_batch_end(self, trainer, module, *rest, until=until, stop=stop):
                    if stop and module.steps_done == until:
                        trainer.should_stop = True

            fit(system, training, small, folder, True, False, checkpoint_every=4, callbacks=[Kill()])
        results.append(system.state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_mixing_and_policies_run_in_training():
    system, splits, training = make(
        steps=3, mix={"mixup": 0.2, "cutmix": 1.0, "smoothing": 0.1}, policy={"name": "randaugment", "magnitude": 5}
    )
    learner = fit(system, training, splits, progress=False)
    assert learner.steps_done == 3


def test_pictures_grow_in_training():
    system, splits, training = make(steps=12, grow=0.5)
    sides, real = [], system.loss
    system.loss = lambda batch: sides.append(batch.image.shape[-1]) or real(batch)
    fit(system, training, splits, progress=False)
    assert sides == [8, 8, 10, 10, 12, 12, 14, 14, 16, 16, 16, 16]
    torch.testing.assert_close(smaller(Batch(image=torch.ones(1, 1, 9, 6)), 0.5).image, torch.ones(1, 1, 4, 3))
    with pytest.raises(ValueError, match=r"batch.depth: exact geometry cannot be warped"):
        smaller(Batch(image=torch.ones(1, 1, 8, 8), depth=torch.ones(1, 8, 8)), 0.5)


def test_what_nobody_asked_for_is_the_simple_recipe():
    """Adam at a rate of 0.001, and neither regularisation, schedule nor augmentation."""
    plain = Training()
    assert (plain.optimizer, plain.lr, plain.schedule) == ("adam", 1e-3, "constant")
    nothing = (
        "weight_decay",
        "warmup",
        "clip",
        "clip_value",
        "ema",
        "swa",
        "freeze",
        "stop",
        "augment",
        "policy",
        "mix",
    )
    assert not any(getattr(plain, name) for name in nothing)


def test_bad_options():
    for options, words in (
        ({"schedule": "step"}, "period"),
        ({"schedule": "plateau"}, "validate"),
        ({"stop": 3}, "validate"),
        ({"ema": 0.9, "swa": 0.5}, "ema, swa"),
        ({"swa": 1.5}, "swa"),
        ({"grow": -0.5}, "grow"),
    ):
        with pytest.raises(ValueError, match=words):
            Training(**options)
    with pytest.raises(BadRecipe, match=r"resnet: training.period"):
        training_options(recipe("resnet").with_overrides({"training.schedule": "step"}))
    with pytest.raises(ValueError, match="freeze: expected fewer than the 4 groups"):
        Freezing(build("resnet", tiny=True), Training(freeze=4))


def muon_run(steps, kept=None):
    """A network after so many steps by both halves at once, and its optimiser."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 8))
    net.to(memory_format=torch.channels_last)
    phase = Phase("all", list(net.parameters()), lambda batch: {})
    training = Training(optimizer="muon", lr=0.02, weight_decay=0.1, schedule="cosine")
    optimizer = optimizer_for(phase, training)
    schedule = schedule_for(optimizer, training, 6)
    if kept is not None:
        for part, state in zip((net, optimizer, schedule), kept, strict=True):
            part.load_state_dict(state)
    for step in range(*steps):
        image = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(image).square().sum().backward()
        optimizer.step()
        schedule.step()
    return net, optimizer, schedule


def test_muon_moves_matrices_along_orthogonal_ones():
    before, after = muon_run((0, 0))[0], muon_run((0, 1))[0]
    with torch.no_grad():
        for layer, wide in ((1, 4), (3, 16)):  # five steps of Newton and Schulz leave the least values smaller
            old, new = before[layer].weight.flatten(1), after[layer].weight.flatten(1)
            moved = (old * (1 - 0.02 * 0.1) - new) / (0.02 * 0.2 * wide**0.5)
            found = torch.linalg.svdvals(moved)
            assert found[: len(found) * 3 // 4].tolist() == pytest.approx([1.0] * (len(found) * 3 // 4), abs=0.35)
        moved = before[0].weight * (1 - 0.002 * 0.1) - after[0].weight
        assert moved.abs().max().item() == pytest.approx(0.002, rel=1e-3)


def test_muon_takes_the_steps_of_torchs():
    start = [torch.randn(shape, generator=torch.Generator().manual_seed(3)) for shape in ((8, 24), (24, 8), (6, 6))]
    ours, theirs = ([nn.Parameter(w.clone()) for w in start] for _ in range(2))
    mine = optimizer_for(Phase("all", ours, lambda batch: {}), Training(optimizer="muon", lr=0.02, weight_decay=0.1))
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(step))
            b.grad = a.grad.clone()
        mine.step()
        reference.step()
    for a, b, w in zip(ours, theirs, start, strict=True):  # torch's rounds to bfloat16, 8 bits
        assert torch.linalg.norm((a - b).detach()) <= 0.02 * torch.linalg.norm((b - w).detach())


def test_what_fades_behind_dead_units_is_nothing_to_muon():
    gradient = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    gradient[:, 4] *= 1e-22
    gradient[2] *= 1e-22
    found = nearest_orthogonal(gradient)
    assert not found[:, 4].any()
    assert not found[2].any()
    assert torch.linalg.svdvals(found)[:5].tolist() == pytest.approx([1.0] * 5, abs=0.35)


def test_muon_goes_on_where_it_stopped():
    whole = muon_run((0, 6))
    first = muon_run((0, 3))
    again = muon_run((3, 6), [part.state_dict() for part in first])
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), again[0].parameters(), strict=True))


def test_muon_without_matrices_is_adamw():
    weight = nn.Parameter(torch.ones(3))
    optimizer = optimizer_for(Phase("all", [weight], lambda batch: {}), Training(optimizer="muon", lr=0.5))
    weight.sum().backward()
    optimizer.step()
    assert weight.tolist() == pytest.approx([0.95] * 3)
