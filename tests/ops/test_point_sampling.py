"""Masks at points: worked values, and where the uncertain ones lie."""

import pytest
import torch

from oculi.ops.point_sampling import sample_at, uncertain_points


def test_values_at_pixel_centres_are_the_pixels():
    maps = torch.randn(2, 3, 4, 5)
    y, x = torch.meshgrid((torch.arange(4) + 0.5) / 4, (torch.arange(5) + 0.5) / 5, indexing="ij")
    points = torch.stack([x, y], -1).flatten(0, 1).expand(2, -1, -1)
    torch.testing.assert_close(sample_at(maps, points), maps.flatten(2), rtol=1e-4, atol=1e-5)


def test_sampled_points_are_less_sure_than_uniform_ones():
    torch.manual_seed(0)
    logits = torch.nn.functional.interpolate(3 * torch.randn(6, 1, 4, 4), size=(32, 32), mode="bilinear")[:, 0]
    points = uncertain_points(logits, 400)
    assert points.shape == (6, 400, 2)
    assert points.min() >= 0
    assert points.max() <= 1
    doubt = sample_at(logits[:, None], points).abs()
    uniform = sample_at(logits[:, None], torch.rand(6, 400, 2)).abs()
    assert float(doubt[..., :300].mean()) < 0.5 * float(uniform.mean())
    assert float(doubt.mean()) < float(uniform.mean())
    assert (doubt[:, 0, :300].diff(dim=1) >= -1e-6).all(), "the least sure first"


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="count"):
        uncertain_points(torch.zeros(1, 4, 4), 0)
