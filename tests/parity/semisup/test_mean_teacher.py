"""Mean Teacher: the average equals the hand recursion and torch's, unlabelled images teach, the teacher answers."""

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from oculi.semisup.mean_teacher import MeanTeacher
from oculi.types import Batch


def tiny(**options):
    torch.manual_seed(0)
    return MeanTeacher(3, [1], 4, in_channels=1, image_size=8, **options)


def shake(system):
    for parameter in system.student.parameters():
        parameter.data += torch.randn_like(parameter)


def test_the_average_is_the_recursion():
    system = tiny(decay=0.75)
    expected = system.student.head.weight.detach().double().clone()
    for step in range(8):
        shake(system)
        system.on_step_end("all", step)
        decay = min(1 - 1 / (step + 2), 0.75)
        expected = decay * expected + (1 - decay) * system.student.head.weight.detach().double()
    torch.testing.assert_close(system.teacher.head.weight.double(), expected, rtol=0, atol=1e-6)


def test_the_average_equals_torchs_after_the_ramp():
    system = tiny(decay=0.75).double()
    system.steps += 1000
    reference = AveragedModel(system.student, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    reference.update_parameters(system.student)
    for step in range(8):
        shake(system)
        system.on_step_end("all", step)
        reference.update_parameters(system.student)
    for ours, theirs in zip(system.teacher.parameters(), reference.module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_unlabelled_images_pull_by_consistency_alone():
    system = tiny(consistency_weight=5.0)
    system.steps += 10_000
    shake(system)
    losses = system.loss(Batch(image=torch.rand(6, 1, 8, 8), label=torch.full((6,), -1)))
    assert float(losses["cross_entropy"].detach()) == 0
    assert float(losses["consistency"].detach()) > 0
    sum(losses.values()).backward()
    assert system.student.stem[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in system.teacher.parameters())


def test_the_ramp_starts_at_exp_minus_5_and_ends_at_the_weight():
    system = tiny(consistency_weight=2.0, ramp=10)
    assert system.consistency() == pytest.approx(2 * 0.006737947, rel=1e-6)
    system.steps += 10
    assert system.consistency() == 2.0


def test_the_teacher_answers():
    system = tiny().eval()
    image = torch.rand(2, 1, 8, 8)
    before = system.predict(Batch(image=image))[0].probabilities
    shake(system)
    assert torch.equal(system.predict(Batch(image=image))[0].probabilities, before)


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="decay: expected a number from 0 to 1, got 2"):
        tiny(decay=2)
    with pytest.raises(ValueError, match="expected images and labels"):
        tiny().loss(Batch(image=torch.rand(2, 1, 8, 8)))
