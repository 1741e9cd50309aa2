"""Lucas-Kanade: exact motions, the aperture problem, OpenCV's and scikit-image's errors on the same pictures."""

import cv2
import numpy as np
import pytest
import torch

from oculi.classical.lucas_kanade import (
    LucasKanade,
    image_gradients,
    moving_photographs,
    shifted_photographs,
    warp_by_flow,
)
from oculi.system import predict
from oculi.types import Batch


def flows(batch: Batch, **arguments) -> tuple[torch.Tensor, torch.Tensor]:
    answers = predict(LucasKanade(batch.image.shape[-1], **arguments), batch)
    return torch.stack([a.flow for a in answers]), torch.stack([a.valid for a in answers])


def endpoint_error(flow, truth):
    return torch.linalg.norm(flow - truth, dim=1)


def test_half_a_pixel():
    batch = shifted_photographs(128, 2)
    flow, valid = flows(batch)
    assert float(endpoint_error(flow, batch.flow)[valid].mean()) < 0.05


def test_smooth_motion_is_found_and_no_worse_than_the_references():
    from skimage.registration import optical_flow_ilk

    batch, inside = moving_photographs(160, 4.0, seed=1, photos=1)
    flow, valid = flows(batch)
    good = valid & inside
    mine = float(endpoint_error(flow, batch.flow)[good].mean())
    assert mine < 0.5
    one, two = batch.image[0, 0].numpy(), batch.next_image[0, 0].numpy()
    v, u = optical_flow_ilk(one, two, radius=6, gaussian=True)
    dense = endpoint_error(torch.from_numpy(np.stack([u, v]))[None], batch.flow)
    assert mine <= float(dense[good].mean())
    places = good[0].nonzero()[::97].flip(1)  # x, y
    start = places.float().numpy()[:, None]
    pictures = [(255 * p).clip(0, 255).round().astype(np.uint8) for p in (one, two)]
    end, status, _ = cv2.calcOpticalFlowPyrLK(*pictures, start, None, winSize=(15, 15), maxLevel=3)
    tracked = torch.from_numpy(status[:, 0]).bool()
    x, y = places[tracked].unbind(1)
    sparse = torch.from_numpy((end - start)[:, 0])[tracked]
    truth = batch.flow[0][:, y, x].T
    theirs = float(torch.linalg.norm(sparse - truth, dim=1).mean())
    here = float(torch.linalg.norm(flow[0][:, y, x].T - truth, dim=1).mean())
    assert here <= theirs + 0.05


def pattern(height: int, width: int, fx: float, fy: float, shift: float = 0.0) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return (0.5 + 0.2 * torch.sin(fx * (x - shift)) + 0.2 * torch.sin(fy * y))[None, None]


def test_texture_in_one_direction_is_not_valid():
    stripes = pattern(48, 48, 0.7, 0.0)
    flow, valid = flows(Batch(image=stripes, next_image=pattern(48, 48, 0.7, 0.0, 1.0)))
    assert not bool(valid.any())
    assert bool(torch.isfinite(flow).all())
    plaid = Batch(image=pattern(48, 48, 0.7, 0.6), next_image=pattern(48, 48, 0.7, 0.6, 1.0))
    flow, valid = flows(plaid)
    assert bool(valid.all())
    assert float((flow[0, :, 8:40, 8:40] - torch.tensor([1.0, 0.0]).view(2, 1, 1)).abs().max()) < 0.02


def test_flat_pictures_stand_still_and_are_not_valid():
    flat = torch.full((1, 1, 32, 32), 0.3)
    flow, valid = flows(Batch(image=flat, next_image=flat))
    assert not bool(valid.any())
    assert float(flow.abs().max()) < 1e-5


def test_a_picture_and_itself_do_not_move():
    batch = shifted_photographs(64, 2)
    flow, _ = flows(Batch(image=batch.image, next_image=batch.image))
    assert float(flow.abs().max()) < 1e-3


def test_one_window_solves_the_normal_equations():
    """One iteration from zero equals the 2 x 2 system solved by hand at a pixel."""
    from scipy.ndimage import gaussian_filter

    batch = shifted_photographs(48, 1)
    flow, _ = flows(batch, levels=1, iterations=1, window=2.0, texture=1e-12)
    gradient = (image_gradients(batch.image) + image_gradients(batch.next_image)) / 2
    ix, iy = gradient[0].double().numpy()
    it = (batch.next_image - batch.image)[0, 0].double().numpy()

    def at(term):
        return gaussian_filter(term, 2.0, mode="mirror", truncate=4.0)[20, 30]

    expected = -np.linalg.solve([[at(ix * ix), at(ix * iy)], [at(ix * iy), at(iy * iy)]], [at(ix * it), at(iy * it)])
    np.testing.assert_allclose(flow[0, :, 20, 30].numpy(), expected, rtol=2e-2)


def test_warp_by_a_whole_pixel_is_a_roll():
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    moved, inside = warp_by_flow(image, torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 16, 16))
    torch.testing.assert_close(moved[..., :-1], image[..., 1:], atol=1e-5, rtol=0)
    assert bool(inside[..., :-1].all())
    assert not bool(inside[..., -1].any())


@pytest.mark.unchecked
def test_bad_input():
    system = LucasKanade(32)
    image = torch.rand(1, 1, 32, 32)
    with pytest.raises(ValueError, match="next_image"):
        system.predict(Batch(image=image))
    with pytest.raises(ValueError, match="equal batch"):
        system.predict(Batch(image=image, next_image=image[..., :16]))
    with pytest.raises(ValueError, match="levels"):
        LucasKanade(levels=0)
    with pytest.raises(ValueError, match="window"):
        LucasKanade(window=0.0)
