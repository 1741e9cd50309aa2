"""The World's objects as solids: voxels of the right volume, points on the surface and evenly spread."""

import math

import pytest
import torch

from oculi.data.world import solids
from oculi.data.world.dataset import World
from oculi.data.world.scenes import Knobs, lay_out
from oculi.data.world.shapes import SHAPES, inside
from oculi.data.world.solids import POINTS, VOXELS, cube, occupancy, on_surface, surface

SIZE = torch.tensor([0.9, 0.3, 0.7])


@pytest.mark.parametrize("kind", range(len(SHAPES)), ids=SHAPES)
def test_points_are_on_the_surface(kind):
    points = on_surface(SIZE[:, None, None])[kind, :, 0, 0]
    kinds, sizes = torch.full((POINTS,), kind), SIZE[:, None].expand(3, POINTS)
    assert inside(kinds, points, sizes * 1.01).all() or kind in (3, 4)  # of which a larger one does not hold a smaller
    step = 0.02
    moved = [points + step * torch.randn(3, 1, generator=torch.Generator().manual_seed(k)) for k in range(20)]
    within = torch.stack([inside(kinds, some, sizes) for some in moved])
    assert within.any(0).float().mean() > 0.95
    assert (~within).any(0).float().mean() > 0.95


def test_parts_get_points_by_their_area():
    a, b, c = SIZE.tolist()
    cylinder = on_surface(SIZE[:, None, None])[2, :, 0, 0]
    mantle = ((cylinder[0] ** 2 + cylinder[1] ** 2).sqrt() - a).abs() < 1e-5
    assert float(mantle.float().mean()) == pytest.approx(2 * c / (2 * c + a), abs=0.01)
    cone = on_surface(SIZE[:, None, None])[3, :, 0, 0]
    slant = math.sqrt(a * a + 4 * c * c)
    assert float((cone[2] == -c).float().mean()) == pytest.approx(a / (a + slant), abs=0.01)
    box = on_surface(SIZE[:, None, None])[1, :, 0, 0]
    share = a * b / (a * b + a * c + b * c)
    assert float(((box[2].abs() - c).abs() < 1e-6).float().mean()) == pytest.approx(share, abs=0.01)


def test_voxels_have_the_objects_volumes_and_hold_their_surfaces(monkeypatch):
    monkeypatch.setattr(solids, "VOXELS", 12)  # fine enough for a torus
    scenes = lay_out(0, list(range(20)), Knobs())
    filled, (_, half), points = occupancy(scenes), cube(scenes), surface(scenes)
    assert filled.shape[2:] == (12,) * 3
    assert float(points.abs().amax()) <= 1 + 1e-4
    assert (points.abs().amax((2, 3)) > 0.9).all()
    measured = filled.sum((2, 3, 4)) * (2 * half / 12) ** 3
    a, b, c = scenes.size
    volumes = torch.stack([4 / 3 * math.pi * a**3, 8 * a * b * c, 2 * math.pi * a**2 * c, 2 / 3 * math.pi * a**2 * c,
                           2 * math.pi**2 * a * b**2])  # fmt: skip
    wanted = volumes.gather(0, scenes.kind[None])[0]
    assert float((measured / wanted - 1).abs().mean()) < 0.05
    cell = ((points + 1) / 2 * 12).floor().long().clamp(0, 11)
    n, k = torch.meshgrid(torch.arange(20), torch.arange(filled.shape[1]), indexing="ij")
    x, y, z = cell.unbind(-1)
    wide = torch.nn.functional.max_pool3d(filled.float(), 3, 1, 1) > 0
    assert wide[n[..., None], k[..., None], z, y, x].float().mean() > 0.99


def test_samples_have_one_solid_per_box():
    world = World(6, size=32, seed=1, fields=("voxels", "surface"))
    for index in range(6):
        sample = world[index]
        assert sample.voxels.shape == (len(sample.boxes), VOXELS, VOXELS, VOXELS)
        assert sample.surface.shape == (len(sample.boxes), POINTS, 3)
    assert torch.equal(world.make([3])[0].surface, world[3].surface)
