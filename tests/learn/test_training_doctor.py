"""The doctor names what a healthy digits run was broken by, says nothing about the healthy one, and disturbs neither."""

import json
import math
from dataclasses import replace

import pytest
import torch

from oculi.data.datasets import Splits
from oculi.learn.diagnosis import CAUSES, OVERFITTING_REMEDIES, UNDERFITTING_REMEDIES, diagnose
from oculi.learn.learner import Diverged, fit
from oculi.learn.training_doctor import FAULTS, Changed, TrainingDoctor, healthy, watch
from oculi.learn.training_record import Probe, Record, curve_shape, label_noise


def causes(case):
    return [finding.cause for finding in diagnose(watch(case.system, case.training, case.splits))]


@pytest.mark.parametrize("fault", FAULTS)
def test_names_the_planted_fault(fault):
    found = causes(FAULTS[fault](healthy(1, steps=100), 1))
    assert found[:1] == [fault]


def test_says_nothing_about_a_healthy_run():
    assert causes(healthy(1, steps=100)) == []


def test_names_blank_pictures_and_overfitting():
    case = healthy(0, steps=20)
    blank = Changed(case.splits.train, lambda s, i: replace(s, image=torch.zeros_like(s.image)))
    assert causes(replace(case, splits=replace(case.splits, train=blank)))[:1] == ["blank_pictures"]
    case = healthy(0, steps=100)
    few = [case.splits.train[i] for i in range(40)]
    assert causes(replace(case, splits=replace(case.splits, train=few)))[:1] == ["overfitting"]


def test_does_not_change_the_run(tmp_path):
    weights = []
    for doctor in ([], [TrainingDoctor(samples=32)]):
        case = healthy(3, steps=12)
        loss = type(case.system).loss
        folder = tmp_path / str(len(doctor))
        learner = fit(case.system, case.training, case.splits, folder, progress=False, callbacks=doctor)
        assert all(phase.loss.__func__ is loss for phase in learner.phases)
        weights.append({k: v.clone() for k, v in case.system.state_dict().items()})
    assert all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())
    assert not (tmp_path / "0" / "doctor.json").exists()
    record = Record.load(tmp_path / "1")
    assert record == doctor[0].record
    assert len(record.loss) == len(record.wait) == len(record.work) == 12
    assert record.read[:5] == [0, 1, 2, 3, 4]
    assert {len(values) for values in record.update.values()} == {len(record.read)}
    assert {probe.part for probe in record.probes} == {"train", "validation"}
    assert diagnose(tmp_path / "0") == diagnose(Record.load(tmp_path / "0"))  # the curve alone


def test_a_run_that_diverges_has_its_record(tmp_path):
    case = healthy(0, steps=30)
    training = replace(case.training, optimizer="sgd", lr=1e6)
    doctor = TrainingDoctor()
    with pytest.raises(Diverged):
        fit(case.system, training, case.splits, tmp_path, progress=False, callbacks=[doctor])
    assert doctor.record.diverged is not None
    json.loads((tmp_path / "doctor.json").read_text(), parse_constant=pytest.fail)
    again = Record.load(tmp_path)
    assert again.diverged == doctor.record.diverged
    assert [f.cause for f in diagnose(tmp_path)] == [f.cause for f in doctor.diagnose()] == ["high_rate"]


def test_findings_are_sentences_with_remedies():
    record = FAULTS["low_rate"](healthy(0, 20), 0)
    finding = diagnose(watch(record.system, record.training, record.splits))[0]
    assert finding.kind == "hyperparameters"
    assert str(finding).startswith("low rate (hyperparameters): a step changes the weights by ")
    assert len(UNDERFITTING_REMEDIES) == 5
    assert len(OVERFITTING_REMEDIES) == 6
    assert len({kind for kind, _ in CAUSES.values()}) == 4
    assert set(FAULTS) <= set(CAUSES)


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        ([2.3 * 0.97**k for k in range(100)], "falls"),
        ([2.3 + 0.1 * k for k in range(100)], "goes up"),
        ([2.3 * 1.1**k for k in range(100)], "explodes"),
        ([2.3, math.nan, 1.0], "explodes"),
        ([2.3 + 1.5 * (-1) ** k for k in range(100)], "oscillates"),
        ([2.3 + 0.01 * (-1) ** k for k in range(100)], "plateaus"),
        ([0.0] * 10, "plateaus"),
    ],
)
def test_curve_shape(loss, shape):
    assert curve_shape(loss) == shape


def test_curves_alone():
    def said(loss):
        return [finding.cause for finding in diagnose(Record(planned=len(loss), loss=loss))]

    assert said([2.3 * 0.97**k for k in range(100)]) == []
    assert said([2.3 + 0.1 * k for k in range(100)]) == ["flipped_sign"]
    assert said([2.3 * 1.1**k for k in range(100)]) == ["high_rate"]
    assert said([2.3 + 1.5 * (-1) ** k for k in range(100)]) == ["oscillates"]
    assert said([2.3] * 100) == ["plateaus"]
    assert diagnose(Record(phases=2, loss=[1.0] * 10)) == []  # players in turn have no curve to fall


def test_label_noise_is_estimated():
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(400) % 4
    clean = torch.full((400, 4), 0.02).scatter_(1, truth[:, None], 0.94) + 0.01 * torch.rand(
        400, 4, generator=generator
    )
    assert label_noise(clean, truth) < 0.02
    wrong = truth.clone()
    wrong[:100] = (wrong[:100] + 1) % 4
    assert label_noise(clean, wrong) == pytest.approx(0.25, abs=0.01)


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match="probes: expected a positive number, got 0"):
        TrainingDoctor(probes=0)
    with pytest.raises(ValueError, match="no run, it holds neither"):
        diagnose(tmp_path)
    with pytest.raises(ValueError, match="at least two steps, got 0"):
        diagnose(Record())
    (tmp_path / "doctor.json").write_text("{}")
    with pytest.raises(ValueError, match="not a doctor's record"):
        Record.load(tmp_path)
    with pytest.raises(ValueError, match="at least two steps, got 1"):
        curve_shape([1.0])


def test_prediction_dynamics_settle():
    case = healthy(0, steps=100)
    record = watch(case.system, case.training, case.splits)
    changed = [probe.changed for probe in record.probes if probe.part == "validation"]
    assert changed[0] == 0  # nothing to compare with
    assert changed[1] > 0.2
    assert changed[-1] < 0.15
    assert isinstance(record.probes[0], Probe)


def test_watches_a_recipe(tmp_path):
    from oculi.data.digits import load
    from oculi.learn.training import train

    doctor = TrainingDoctor(samples=16, probes=2)
    train("lenet", tmp_path, {"training.steps": 4}, progress=False, splits=load(), callbacks=[doctor])
    assert len(doctor.record.loss) == 4
    assert Record.load(tmp_path) == doctor.record


def test_works_without_classes():
    from oculi.generate.vae import VAE

    torch.manual_seed(0)
    from oculi import catalogue
    from oculi.learn.training import build

    system = build(catalogue.recipe("vae"), tiny=True)
    assert isinstance(system, VAE)
    c = system.contract
    from oculi.types import Sample

    data = [Sample(image=torch.rand(c.channels, c.height, c.width)) for _ in range(16)]
    case = healthy(0, steps=12)
    record = watch(system, replace(case.training, batch_size=8), Splits(data, data, data))
    assert record.probes == []
    assert len(record.loss) == 12
    assert all(finding.cause in CAUSES for finding in diagnose(record))
