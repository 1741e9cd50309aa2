"""Four views of a World scene from noisy maps of their pairs; the sum of distances never rises; bad input is named."""

from __future__ import annotations

import math

import pytest
import torch

from oculi.classical.global_alignment import _scales, global_alignment
from oculi.data.world.pairs import WorldPairs
from oculi.data.world.render import render
from oculi.data.world.scenes import Knobs
from oculi.geometry.pointmaps import change_frame, pointmap, similarity
from oculi.ops.meshes import chamfer

SIZE, VIEWS = 24, 4


@pytest.fixture(scope="module")
def scene():
    """Cameras and depths of four views, and every ordered pair's maps, each pair in units of its own."""
    knobs = Knobs(objects=(3, 5))
    world = WorldPairs(1, SIZE, 3, 0, knobs, 0.6, (50.0, 50.0))
    views = world.scenes([0] * VIEWS)
    cameras, depth = views.cameras(SIZE), render(views, SIZE, knobs).depth
    own = pointmap(depth, cameras.K)
    pairs = torch.tensor([[n, m] for n in range(VIEWS) for m in range(VIEWS) if n != m])
    maps = [torch.stack([own[n], change_frame(own[m], cameras[m], cameras[n])]) for n, m in pairs.tolist()]
    units = 0.5 + torch.rand(len(pairs), generator=torch.Generator().manual_seed(1))
    true = torch.stack([change_frame(own[n], cameras[n], cameras[0]) for n in range(VIEWS)])
    return pairs, torch.stack(maps) * units[:, None, None, None, None], cameras, true


def compared(found, cameras, true) -> tuple[float, float]:
    """Largest angle between cameras in degrees; Chamfer distance as a share of the scene's diagonal."""
    turned = [found.cameras.R[v].double() @ (cameras.R[v] @ cameras.R[0].T).double().T for v in range(len(cameras.K))]
    cosines = [max(-1.0, min(1.0, (float(t.diagonal().sum()) - 1) / 2)) for t in turned]
    flat = true.reshape(-1, 3)
    carried = similarity(found.points.reshape(-1, 3), flat)(found.points.reshape(-1, 3))
    size = float((flat.amax(0) - flat.amin(0)).norm())
    return max(math.degrees(math.acos(c)) for c in cosines), float(chamfer(carried[None], flat[None])) / size


def test_exact_maps_give_the_scene_back(scene):
    pairs, maps, cameras, true = scene
    found = global_alignment(pairs, maps)
    turn, distance = compared(found, cameras, true)
    assert turn < 0.05
    assert distance < 1e-4
    assert float(found.scales.log().sum()) == pytest.approx(0, abs=1e-4)
    torch.testing.assert_close(found.cameras.K[:, 0, 0], cameras.K[:, 0, 0], rtol=1e-3, atol=0)
    torch.testing.assert_close(found.cameras.world_to_camera[0], torch.eye(4), atol=1e-5, rtol=0)


def test_noisy_maps_with_wrong_pairs_do_too(scene):
    pairs, maps, cameras, true = scene
    g = torch.Generator().manual_seed(2)
    noisy = maps + 0.02 * maps.norm(dim=-1).mean() * torch.randn(maps.shape, generator=g)
    wild = torch.rand(noisy.shape[:-1], generator=g) < 0.1
    noisy = torch.where(wild[..., None], noisy.roll(7, 2), noisy)
    found = global_alignment(pairs, noisy, torch.where(wild, 1.1, 5.0))
    turn, distance = compared(found, cameras, true)
    assert turn < 1
    assert distance < 0.01
    falls = torch.tensor(found.objective).diff()
    assert bool((falls <= 1e-9 * found.objective[0]).all())
    assert float(found.scales.log().sum()) == pytest.approx(0, abs=1e-4)


def test_a_chain_is_enough_and_a_gap_is_not(scene):
    pairs, maps, cameras, true = scene
    near = ((pairs[:, 0] - pairs[:, 1]).abs() == 1).nonzero()[:, 0]
    turn, _ = compared(global_alignment(pairs[near], maps[near]), cameras, true)
    assert turn < 0.05
    torn = (pairs // 2).eq(pairs.flip(1) // 2).all(1).nonzero()[:, 0]  # 0-1 and 2-3 alone
    with pytest.raises(ValueError, match="do not connect picture"):
        global_alignment(pairs[torn], maps[torn])


def test_scales_are_the_constrained_minimum():
    g = torch.Generator().manual_seed(0)
    A, B = torch.rand(5, generator=g).double() + 0.5, torch.rand(5, generator=g).double() + 0.5
    s = _scales(A, B)
    assert float(s.log().sum()) == pytest.approx(0, abs=1e-9)
    slope = A * s.square() - B * s
    torch.testing.assert_close(slope, slope.mean().expand(5), atol=1e-8, rtol=0)


@pytest.mark.unchecked
def test_bad_input_is_named(scene):
    pairs, maps, _, _ = scene
    with pytest.raises(ValueError, match="picture must come first"):
        global_alignment(pairs[:3], maps[:3])
    with pytest.raises(ValueError, match="two different pictures"):
        global_alignment(pairs * 0, maps)
    with pytest.raises(ValueError, match="finite pointmaps"):
        global_alignment(pairs, maps * torch.nan)
    with pytest.raises(ValueError, match="one for each"):
        global_alignment(pairs[:5], maps)
    with pytest.raises(ValueError, match="positive weights"):
        global_alignment(pairs, maps, torch.zeros(maps.shape[:-1]))
    with pytest.raises(ValueError, match="do not fix a rotation"):
        global_alignment(pairs, torch.ones_like(maps))
