"""NeRF on a ball whose pictures are known in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from oculi.data.datasets import Splits
from oculi.geometry.camera import Camera, intrinsics, look_at
from oculi.learn.learner import Training, fit, seed_everything
from oculi.learn.protocols import views
from oculi.radiance.nerf import NeRF
from oculi.types import Batch, Sample


def ball(count: int, size: int, turn: float = 0.0) -> list[Sample]:
    """A ball of radius 1 coloured by its normal before white, seen from a circle of radius 4."""
    angle = turn + torch.arange(count) * 2 * math.pi / count
    center = torch.stack([4 * angle.cos(), 4 * angle.sin(), 1.5 * (3 * angle).sin()], -1)
    pose = look_at(center, torch.zeros(count, 3), torch.tensor([0.0, 0.0, 1.0]))
    K = intrinsics(1.5 * size, 1.5 * size, size / 2, size / 2).expand(count, 3, 3)
    cameras = Camera(K, pose, size, size)
    origin, direction = cameras.rays()
    direction = direction / direction.norm(dim=-1, keepdim=True)
    middle = -(origin * direction).sum(-1)
    inside = 1 - ((origin + middle[..., None] * direction) ** 2).sum(-1)
    normal = origin + (middle - inside.clamp_min(0).sqrt())[..., None] * direction
    colour = torch.where(inside[..., None] > 0, 0.5 + 0.4 * normal, torch.ones(()))
    images = colour.reshape(count, size, size, 3).permute(0, 3, 1, 2).clamp(0, 1)
    return [Sample(image=image, camera=cameras[index]) for index, image in enumerate(images)]


TINY = {"width": 8, "depth": 3, "place_frequencies": 2, "direction_frequencies": 1, "coarse": 4, "fine": 4, "rays": 16}


def test_density_does_not_depend_on_the_direction():
    field = NeRF(**TINY, image_size=16).fine
    place, direction = torch.rand(5, 7, 3), torch.nn.functional.normalize(torch.randn(2, 5, 3), dim=-1)
    first, second = field(place, direction[0]), field(place, direction[1])
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])
    assert bool((first[0] >= 0).all())


def test_it_renders_one_picture_per_camera_and_the_same_alone():
    system = NeRF(**TINY, image_size=16).eval()
    batch = Batch.of(ball(3, 16))
    together = system.predict(batch)
    assert [tuple(answer.images.shape) for answer in together] == [(1, 3, 16, 16)] * 3
    alone = system.predict(Batch.of(ball(3, 16)[1:2]))
    torch.testing.assert_close(alone[0].images, together[1].images)
    assert 0 <= float(together[0].images.min()) <= float(together[0].images.max()) <= 1


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    system = NeRF(**TINY, image_size=16)
    torch.stack(list(system.loss(Batch.of(ball(3, 16))).values())).sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in system.parameters())


def test_it_learns_a_ball():
    seed_everything(0)
    train, held_out = ball(12, 16), ball(3, 16, turn=0.2)
    system = NeRF(32, 3, 3, 1, 12, 12, 2.5, 5.5, 2.5, 128, 16)
    splits = Splits(train, held_out, held_out)
    before = views.score(system, splits, "test")["psnr"]
    fit(system, Training(steps=120, batch_size=12, lr=5e-3), splits, progress=False)
    after = views.score(system, splits, "test")
    assert after["psnr"] > max(16, before + 4)
    assert after["worst_psnr"] <= after["psnr"]


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="near: expected"):
        NeRF(near=3, far=2)
    with pytest.raises(ValueError, match="radius: expected"):
        NeRF(radius=0)
    with pytest.raises(ValueError, match="batch: expected images with their cameras"):
        NeRF(**TINY).loss(Batch(image=torch.rand(1, 3, 8, 8)))
    with pytest.raises(ValueError, match="batch: expected cameras"):
        NeRF(**TINY).predict(Batch(image=torch.rand(1, 3, 8, 8)))
