"""Interpolation: golden numbers, torch's, scipy's and OpenCV's answers, gradients."""

import cv2
import numpy as np
import pytest
import scipy.ndimage
import torch
from torch.nn import functional as F

from oculi.ops.sampling import KEYS_CUBIC, TORCH_CUBIC, cubic_weights, fast_sample, resize, sample

MODES = ["nearest", "bilinear", "bicubic"]


def maps(dtype=torch.float64) -> torch.Tensor:
    return torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(0), dtype=dtype)


def points(beyond: float = 0.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return (
        torch.rand(2, 50, 2, generator=g, dtype=torch.float64) * torch.tensor([9 + 2 * beyond, 7 + 2 * beyond]) - beyond
    )


def test_golden():
    assert sample(torch.tensor([[[[0.0, 1], [2, 3]]]]), torch.tensor([[[1.0, 1.0]]])).item() == 1.5
    doubled = resize(torch.tensor([[[[1.0, 2], [3, 4]]]]), 4, 4, "nearest")
    assert doubled.tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]]]
    for a in (TORCH_CUBIC, KEYS_CUBIC):
        u = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None]
        taps = cubic_weights(u - torch.arange(-1, 3), a)
        torch.testing.assert_close(taps.sum(1), torch.ones(11, dtype=torch.float64))


def test_keys_reproduces_quadratics():
    y, x = torch.meshgrid(torch.arange(9.0).double() + 0.5, torch.arange(9.0).double() + 0.5, indexing="ij")
    polynomial = lambda x, y: 1 + 2 * x - y + 0.5 * x * x - 0.3 * x * y + y * y  # noqa: E731
    at = 2 + 4 * torch.rand(1, 40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = sample(polynomial(x, y)[None, None], at, "bicubic", a=KEYS_CUBIC)[0, 0]
    torch.testing.assert_close(values, polynomial(*at[0].unbind(-1)), atol=1e-10, rtol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("border", ["border", "zeros"])
def test_the_fast_twin_agrees_with_gradients(mode, border):
    found = []
    for way in (sample, fast_sample):
        m, p = maps().requires_grad_(), points(2.0).requires_grad_()
        values = way(m, p, mode, border)
        weights = torch.linspace(-1, 1, values.numel(), dtype=torch.float64).view_as(values)
        gradients = torch.autograd.grad((weights * values).sum(), (m, p), allow_unused=True)
        found.append((values.detach(), *gradients))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-9, rtol=0)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-9, rtol=0)
    if mode == "bicubic" or (mode == "bilinear" and border == "zeros"):
        torch.testing.assert_close(found[0][2], found[1][2], atol=1e-8, rtol=0)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_gradients_are_those_of_differences(mode):
    inside = points()[:, :5] * 0.6 + 1.57
    assert torch.autograd.gradcheck(lambda m, p: sample(m, p, mode), (maps().requires_grad_(), inside.requires_grad_()))


def test_scipys_and_opencvs_values():
    m, p = maps()[0, 0].numpy(), points()[0]
    at = (p.numpy() - 0.5)[:, ::-1].T
    theirs = scipy.ndimage.map_coordinates(m, at, order=1, mode="nearest")
    np.testing.assert_allclose(sample(maps()[:1, :1], p[None])[0, 0].numpy(), theirs, atol=1e-12)
    scaled = scipy.ndimage.zoom(m, 3, order=0, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(resize(maps()[:1, :1], 21, 27, "nearest")[0, 0].numpy(), scaled)
    cubic = cv2.resize(m.astype(np.float32), (18, 14), interpolation=cv2.INTER_CUBIC)
    ours = resize(maps(torch.float32)[:1, :1], 14, 18, "bicubic")[0, 0].numpy()
    first = torch.from_numpy(m.astype(np.float32))[None, None]
    np.testing.assert_allclose(resize(first, 14, 18, "bicubic")[0, 0].numpy(), cubic, atol=1e-5)
    assert ours.shape == cubic.shape


@pytest.mark.parametrize(("mode", "aligned"), [("bilinear", 0), ("bilinear", 1), ("bicubic", 0), ("bicubic", 1)])
@pytest.mark.parametrize("size", [(14, 18), (5, 4), (7, 13), (1, 1)])
def test_resizing_is_torchs(mode, aligned, size):
    expected = F.interpolate(maps(), size=size, mode=mode, align_corners=bool(aligned))
    torch.testing.assert_close(resize(maps(), *size, mode, bool(aligned)), expected, atol=1e-6, rtol=0)


def test_nearest_is_torchs():
    for size in ((14, 18), (5, 4), (3, 20)):
        expected = F.interpolate(maps(), size=size, mode="nearest-exact")
        assert torch.equal(resize(maps(), *size, "nearest"), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample(maps(), points(), "cubic"), "mode: expected"),
        (lambda: sample(maps(), points(), border="wrap"), "border: expected"),
        (lambda: sample(maps(), points() * float("nan")), "points: expected finite"),
        (lambda: resize(maps(), 0, 3), "height, width"),
        (lambda: resize(maps(), 3, 3, "nearest", align_corners=True), "align_corners"),
    ],
)
@pytest.mark.unchecked
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
