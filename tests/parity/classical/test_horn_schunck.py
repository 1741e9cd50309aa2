"""Horn-Schunck: the update by hand, the energy falls, exact motions, filled untextured areas, scikit-image's TV-L1."""

import numpy as np
import pytest
import torch

from oculi.classical.horn_schunck import (
    HornSchunck,
    energy,
    falling_share,
    linearised,
    neighbour_mean,
    relax,
    world_motion,
)
from oculi.classical.lucas_kanade import LucasKanade, moving_photographs, shifted_photographs, warp_by_flow
from oculi.system import predict
from oculi.types import Batch


def flow_of(batch: Batch, **arguments) -> torch.Tensor:
    return torch.stack([a.flow for a in predict(HornSchunck(batch.image.shape[-1], **arguments), batch)])


def random_terms() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    gradient, flow = (torch.randn(1, 2, 6, 7, generator=g, dtype=torch.float64) for _ in range(2))
    return gradient, torch.randn(1, 1, 6, 7, generator=g, dtype=torch.float64), flow


def test_one_update_by_hand():
    gradient, change, flow = random_terms()
    y, x, a = 3, 4, 0.7
    mean = sum(
        flow[0, :, y + dy, x + dx] / (12 if dx and dy else 6) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dx or dy
    )
    (ix, iy), (u, v) = gradient[0, :, y, x], mean
    ratio = (ix * u + iy * v + change[0, 0, y, x]) / (a**2 + ix**2 + iy**2)
    found = relax(gradient, change, flow, a, 1)[0, :, y, x]
    torch.testing.assert_close(found, torch.stack([u - ix * ratio, v - iy * ratio]))


def test_the_mean_of_a_plane_is_the_plane():
    plane = torch.arange(5.0)[:, None] * 2 + torch.arange(6.0)
    mean = neighbour_mean(plane.expand(1, 2, 5, 6))
    torch.testing.assert_close(mean[0, 0, 1:-1, 1:-1], plane[1:-1, 1:-1])


def test_where_the_iteration_rests_the_energy_has_no_gradient():
    gradient, change, flow = random_terms()
    rest = relax(gradient, change, flow, 0.7, 3000).requires_grad_()
    (slope,) = torch.autograd.grad(energy(gradient, change, rest, 0.7).sum(), rest)
    assert float(slope.abs().max()) < 1e-6


def test_energy_falls_at_every_iteration():
    batch = world_motion(2, 32, 0)
    for smoothness in (0.02, 0.15, 1.0):
        assert falling_share(batch, smoothness, 40) == 1
    gradient, change, flow = random_terms()
    before = energy(gradient, change, flow, 0.5)
    for _ in range(30):
        flow = relax(gradient, change, flow, 0.5, 1)
        after = energy(gradient, change, flow, 0.5)
        assert float(after) <= float(before)
        before = after


def test_half_a_pixel():
    batch = shifted_photographs(96, 2)
    error = torch.linalg.norm(flow_of(batch, smoothness=0.03) - batch.flow, dim=1)
    assert float(error[:, 8:-8, 8:-8].mean()) < 0.1


def test_smooth_motion_beside_scikit_images_global_method():
    from skimage.registration import optical_flow_tvl1

    batch, inside = moving_photographs(128, 3.0, seed=1, photos=1)
    error = torch.linalg.norm(flow_of(batch, smoothness=0.03) - batch.flow, dim=1)[inside]
    v, u = optical_flow_tvl1(batch.image[0, 0].numpy(), batch.next_image[0, 0].numpy())
    theirs = torch.linalg.norm(torch.from_numpy(np.stack([u, v]))[None] - batch.flow, dim=1)[inside]
    assert float(error.mean()) < 0.3
    assert float(error.mean()) <= float(theirs.mean())


def test_dense_flow_warps_the_next_picture_back():
    """Of both dense methods: next(x + flow(x)) is far nearer to the picture than next(x) is."""
    batch, inside = moving_photographs(128, 3.0, seed=2, photos=2)
    for system in (HornSchunck(128, smoothness=0.03), LucasKanade(128)):
        flow = torch.stack([a.flow for a in predict(system, batch)])
        warped, _ = warp_by_flow(batch.next_image, flow)
        left = (warped - batch.image).abs()[:, 0][inside].mean()
        assert float(left) < 0.3 * float((batch.next_image - batch.image).abs()[:, 0][inside].mean())


def test_untextured_areas_are_filled_from_around():
    """A flat square within moving texture: the local method knows nothing inside, the global one the motion."""
    g = torch.Generator().manual_seed(0)
    wide = torch.nn.functional.interpolate(torch.rand(1, 1, 24, 25, generator=g), scale_factor=3, mode="bicubic")
    pictures = [wide[..., :64, s : s + 64].clamp(0, 1).clone() for s in (1, 0)]  # moves right by one
    for picture in pictures:
        picture[..., 20:44, 20:44] = 0.5
    batch = Batch(image=pictures[0], next_image=pictures[1])
    flow = flow_of(batch)
    assert float(flow[0, 0, 24:40, 24:40].mean()) > 0.3
    textured = flow[0, :, 4:16, 8:56].mean((1, 2))
    assert float((textured - torch.tensor([1.0, 0.0])).abs().max()) < 0.2


def test_flat_and_identical_pictures_stand_still():
    flat = torch.full((1, 1, 32, 32), 0.3)
    assert float(flow_of(Batch(image=flat, next_image=flat)).abs().max()) == 0
    image = shifted_photographs(64, 1).image
    assert float(flow_of(Batch(image=image, next_image=image)).abs().max()) < 1e-5


def test_differentiable_in_the_pictures():
    batch = shifted_photographs(32, 1)
    image = batch.image.clone().requires_grad_()
    HornSchunck(32, warps=1, iterations=5)(image, batch.next_image).sum().backward()
    assert bool(torch.isfinite(image.grad).all())
    assert float(image.grad.abs().max()) > 0


def test_beyond_the_picture_brightness_says_nothing():
    picture = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    far = torch.full((1, 2, 16, 16), 100.0)
    gradient, change = linearised(picture, picture, far)
    assert float(gradient.abs().max()) == 0
    assert float(change.abs().max()) == 0


@pytest.mark.unchecked
def test_bad_input():
    system = HornSchunck(32)
    image = torch.rand(1, 1, 32, 32)
    for batch, word in (
        (Batch(image=image), "next_image"),
        (Batch(image=image, next_image=image[..., :16]), "equal batch"),
        (Batch(image=image, next_image=image * torch.nan), "next_image: expected numbers"),
    ):
        with pytest.raises(ValueError, match=word):
            system.predict(batch)
    for name, value in (("smoothness", 0.0), ("levels", 0), ("warps", 0), ("iterations", 0)):
        with pytest.raises(ValueError, match=name):
            HornSchunck(**{name: value})
