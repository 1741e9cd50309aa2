"""Volume rendering: identities, sampling and bad input."""

from __future__ import annotations

import math

import pytest
import torch

from oculi.ops.volume_rendering import composite, importance_depths, render_weights, stratified_depths


def test_the_weights_sum_to_the_opacity_of_the_whole_ray():
    density, interval = torch.rand(2, 50, 20, dtype=torch.float64)
    weights, _ = render_weights(density, interval)
    torch.testing.assert_close(weights.sum(-1), 1 - torch.exp(-(density * interval).sum(-1)))


def test_a_homogeneous_slab_obeys_beer_and_lambert():
    samples = 64
    weights, transmittance = render_weights(torch.full((samples,), 0.7), torch.full((samples,), 2 / samples))
    torch.testing.assert_close(weights.sum(), torch.tensor(1 - math.exp(-1.4)))
    torch.testing.assert_close(transmittance[32], torch.tensor(math.exp(-0.7)))
    colour = composite(weights, torch.ones(samples, 3) * 0.5)
    torch.testing.assert_close(colour, torch.full((3,), 0.5 * (1 - math.exp(-1.4))))


def test_what_lies_behind_does_not_dim_what_is_in_front():
    density = torch.tensor([1.0, 5.0, 2.0], requires_grad=True)
    weights, _ = render_weights(density, torch.ones(3))
    weights[0].backward()
    assert density.grad[0] > 0
    assert density.grad[1:].tolist() == [0, 0]


def test_stratified_depths_fall_into_their_bins():
    edges = torch.linspace(2, 6, 9)
    depth = stratified_depths(40, 8, 2.0, 6.0, jitter=True)
    assert bool(((depth >= edges[:-1]) & (depth <= edges[1:])).all())
    torch.testing.assert_close(stratified_depths(1, 8, 2.0, 6.0, jitter=False)[0], (edges[1:] + edges[:-1]) / 2)


def test_importance_depths_follow_the_weights():
    edges, weights = torch.linspace(0, 4, 5).expand(6, 5), torch.tensor([0.0, 0.75, 0.25, 0.0]).expand(6, 4)
    depth = importance_depths(edges, weights, 400, jitter=False)
    assert bool((depth.diff(dim=-1) >= 0).all())
    share = torch.histc(depth[0], 4, 0, 4) / 400
    torch.testing.assert_close(share, torch.tensor([0.0, 0.75, 0.25, 0.0]), atol=0.01, rtol=0)
    even = importance_depths(edges, torch.zeros(6, 4), 400, jitter=False)
    torch.testing.assert_close(torch.histc(even[0], 4, 0, 4) / 400, torch.full((4,), 0.25), atol=0.01, rtol=0)


@pytest.mark.unchecked
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="interval: expected the shape"):
        render_weights(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match="near: expected"):
        stratified_depths(1, 4, 3.0, 2.0, jitter=False)
